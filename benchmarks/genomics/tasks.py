"""The tasks of the DNA benchmark: config and bounds of each."""

from dataclasses import dataclass, replace

from benchmarks.shared.runs import CONF
from data_prep.genomics import GENOMIC_BENCHMARKS

METRICS = {"accuracy": "accuracy", "MCC": "mcc", "macro-F1": "macro_f1"}  # as results.json spells them


@dataclass(frozen=True)
class Task:
    """One data set.

    Args:
        metric: key of METRICS.
        config: the file in conf that says how it is trained.
        options: of `python -m app fit`, in place of what the file says.
        must: bound on the metric with `lmm`.
        aim: likewise.
        group: rows whose mean is a row of its own.
        floors: whether floors stand beside it.
    """

    metric: str
    config: str
    options: tuple[str, ...] = ()
    must: str = ""
    aim: str = ""
    group: str = ""
    floors: bool = True

    @property
    def command(self) -> list[str]:
        """Options of `python -m app fit` that train it."""
        return ["--config", str(CONF / self.config), *self.options]


LARGE = ("--data.batch_size=256", "--model.head.hide=0.05", "--model.head.dropout=0.1")
FILES = "${oc.env:TITANS_DATA,data}/genomics"


def _tasks() -> dict[str, Task]:
    promoter, sites = (f"genomics_{name}.yaml" for name in ("gue", "sites"))
    gue = {f"gue/{name}": Task("MCC", sites, (*LARGE, "--trainer.max_epochs=10")) for name in ("tf_0", "tf_1", "tf_3")}
    gue |= {f"gue/{name}": Task("MCC", sites) for name in ("mouse_0", "mouse_3")}
    large = Task("MCC", promoter, (*LARGE, "--trainer.max_epochs=8"))
    gue |= {f"gue/{name}": large for name in ("prom_core_all", "prom_core_notata")}
    gue["gue/prom_core_tata"] = Task("MCC", promoter, (), ">= 0.70", ">= 0.75")
    gue["gue/prom_300_tata"] = Task("MCC", promoter, ("--model.head.bins=15",))
    named = {name: (f"--data.set={name}", "--data.source=file") for name in (*gue, *GENOMIC_BENCHMARKS)}
    whole = "nine whole GUE tasks"
    tasks = {name: replace(task, options=(*named[name], *task.options), group=whole) for name, task in gue.items()}
    splice = ("--trainer.max_epochs=20", "--model.head.bins=20", "--model.head.hide=0.05")
    folder = f"{FILES}/gue/splice_reconstructed"
    splice = (*own(f"{folder}/dev.csv.gz"), f"--data.test={folder}/test.csv.gz", *splice)
    region = ("--trainer.max_epochs=12",)
    slow = (*region, "--model.optim.lr=1e-3")  # validated better on Cohn, one seed
    nontata, cohn = (
        (*own(f"{FILES}/genomic_benchmarks/human_{name}.test.csv.gz"), "--data.layout.split_col=resplit")
        for name in ("nontata_promoters", "enhancers_cohn")
    )
    longest = ("--data.distance=131072", "--data.batch_size=16", "--trainer.max_epochs=30")
    planted = Task("accuracy", "genomics_planted.yaml", floors=False)
    tasks |= {
        "splice_reconstructed dev to test": Task("MCC", promoter, splice, ">= 0.50", ">= 0.70"),
        "nontata group resplit": Task("accuracy", promoter, (*nontata, *region), ">= 0.84"),
        "Cohn resplit": Task("accuracy", sites, (*cohn, *slow), ">= 0.745", ">= 0.75"),
        # what k-mer frequencies reach
        "vertebrate mtDNA at 16.6 kb": Task("macro-F1", "genomics_mitochondria.yaml", (), ">= 0.978"),
        "planted pair at 8k": replace(planted, must=">= 0.95", aim=">= 0.99"),
        "planted pair at 32k": replace(planted, options=("--data.distance=32768",), must=">= 0.90", aim=">= 0.98"),
        "planted pair at 131k": replace(planted, options=longest, aim=">= 0.95"),
    }
    three = {  # neighbours lie half as far apart as the first and the last
        "order of three over 8k": ("--data.distance=4096",),
        "order of three over 32k": ("--data.distance=16384",),
        "order of three over 131k": ("--data.distance=65536", *longest[1:]),
    }
    order = replace(planted, aim=">= 0.95")
    tasks |= {name: replace(order, options=("--data.motifs=3", *options)) for name, options in three.items()}
    public = {name: Task("accuracy", sites, (*named[name], *region)) for name in GENOMIC_BENCHMARKS}
    public["human_nontata_promoters"] = replace(public["human_nontata_promoters"], config=promoter)
    return tasks | public


def own(file: str) -> tuple[str, ...]:
    """Options for a file in the place of a named set."""
    return "--data.set=null", "--data.source=file", f"--data.train={file}"


TASKS = _tasks()
GROUPS = {"nine whole GUE tasks": (">= 0.66", ">= 0.684")}
