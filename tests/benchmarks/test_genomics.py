"""The benchmark of genomics: recipes that build, controls that are controls, and a table of what is finished."""

import gzip
import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from app.door import main
from app.module import TitansModule
from app.runs import run_folder
from benchmarks.genomics import MitochondriaData, PlantedData
from benchmarks.genomics import __main__ as genomics
from benchmarks.genomics.__main__ import BACKBONES, LOCAL, rows_of, runs_of
from benchmarks.genomics.controls import ReadStart
from benchmarks.genomics.floors import floors_of
from benchmarks.genomics.tasks import TASKS
from benchmarks.shared.models import backbone_of
from benchmarks.shared.rows import path_of, read
from benchmarks.shared.runs import CONF, Run, resolved
from data_prep.genomics import GENOMIC_BENCHMARKS, SETS
from domains.genomics import SequenceHead
from domains.genomics.bases import decode
from domains.genomics.data import Batch

# One task of each recipe: the others differ in what they read only.
RECIPES = {(task.config, tuple(o for o in task.options if "--data" not in o)): name for name, task in TASKS.items()}
SMALL = (
    *("--model.backbone.dim=16", "--model.backbone.memory.heads=1", "--model.head.conv_layers=0"),
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--trainer.log_every_n_steps=1", "--trainer.max_epochs=2", "--trainer.limit_train_batches=2"),
)


def built(config: dict, classes: int) -> TitansModule:
    """The model of a configuration."""
    model = config["model"]
    backbone = backbone_of(model["backbone"])
    head = {"input_size": 5} | model["head"]["init_args"] | {"dim": backbone.dim, "output_size": classes}
    return TitansModule(SequenceHead(**head), backbone)


@pytest.fixture
def genome(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data folder with a short genome where that of E. coli is wanted; the working directory is beside it."""
    folder = tmp_path / "data" / "genomics" / "genomes"
    folder.mkdir(parents=True)
    letters = decode(torch.randint(4, (20_000,), dtype=torch.uint8))
    (folder / "ecoli_W.fasta.gz").write_bytes(gzip.compress(f">chromosome\n{letters}\n".encode()))
    monkeypatch.setenv("TITANS_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.mark.parametrize("name", RECIPES.values())
def test_every_recipe_keeps_the_budget(name: str) -> None:
    config = resolved(TASKS[name].command)
    sizes = [p.numel() for p in built(config, 5).parameters()]
    assert sum(sizes) <= 1_000_000
    assert config["data"]["init_args"].get("set") == (name if name in SETS else None)


def test_the_tasks_are_those_of_the_goals() -> None:
    assert len([task for task in TASKS.values() if task.group == "nine whole GUE tasks"]) == 9
    assert set(GENOMIC_BENCHMARKS) < set(TASKS)
    assert {name for name, task in TASKS.items() if task.group} < set(SETS)


def test_the_switched_off_memory_is_one_that_takes_no_steps() -> None:
    torch.manual_seed(0)
    module = built(resolved([*TASKS["gue/tf_0"].command, *SMALL]), 2).eval()
    batch = Batch(torch.randint(4, (3, 40), dtype=torch.uint8), torch.tensor([40, 31, 22]))
    written = module(batch)
    memories = module.backbone.memories().values()
    bounds = [memory.theta_max for memory in memories]
    for memory in memories:
        memory.theta_max = 0.0
    still = module(batch)
    for memory, bound in zip(memories, bounds, strict=True):
        memory.theta_max = bound
    ReadStart().setup(None, module, "fit")
    torch.testing.assert_close(module(batch), still)
    assert not torch.allclose(still, written)


def trained(command: list[str]) -> dict:
    """What is left of a run and its test."""
    main(["fit", *command])
    tested = main(["test", *command])
    return json.loads((run_folder(tested.checkpoint) / "results.json").read_text())


@pytest.mark.parametrize(
    ("task", "said", "length"),
    [("planted pair at 8k", "planted pair at 64", 192), ("order of three over 8k", "order of three at 64", 256)],
)
def test_the_memory_off_trains_and_is_tested_by_the_application(
    genome: Path, monkeypatch: pytest.MonkeyPatch, task: str, said: str, length: int
) -> None:
    options = [*TASKS[task].command, *SMALL, "--data.distance=64", "--data.batch_size=8"]
    seen = set()
    predict = SequenceHead.embed
    monkeypatch.setattr(SequenceHead, "embed", lambda self, b: seen.add(b.bases.shape[1]) or predict(self, b))
    found = trained([*options, *BACKBONES["memory off"], "--trainer.limit_test_batches=1"])
    assert found["data"]["data"] == said and 0 <= found["metrics"]["test/accuracy"] <= 1
    assert max(seen) == length


@pytest.mark.parametrize("name", LOCAL)
def test_controls_without_a_backbone_are_trained_and_tested_by_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    small = [option for option in SMALL if "epochs" not in option]
    options = ["--config", str(CONF / "genomics_sample.yaml"), *small, "--trainer.max_epochs=1", *BACKBONES[name]]
    options += ["--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", "--data.batch_size=16"]
    assert 0 <= trained(options)["metrics"]["test/accuracy"] <= 1


def test_what_sees_no_further_than_its_convolutions_is_not_asked_for_what_is_planted_far_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = []
    monkeypatch.setattr(genomics, "finish", lambda runs, *_: begun.extend(run.name for run in runs) or [])
    monkeypatch.setattr("sys.argv", ["genomics", "--tasks", "mtDNA,32k", "--backbones", "legnet,lmm", "--seeds", "1"])
    genomics.main()
    of = {name.rsplit("_", 2)[0] for name in begun}
    mtdna = {"dna_vertebrate-mtDNA-at-16.6-kb_legnet", "dna_vertebrate-mtDNA-at-16.6-kb_lmm"}
    assert of == mtdna | {"dna_planted-pair-at-32k_lmm", "dna_order-of-three-over-32k_lmm"}


def test_planted_distances_grow_to_the_one_that_is_asked(genome: Path) -> None:
    steps: dict[int, list[tuple]] = {}
    for seed in range(2):
        data = PlantedData(8192, rounds=30, seed=seed)
        data.setup()
        sampler = data.train_dataloader().sampler
        for epoch in range(30):
            sampler.set_epoch(epoch)
            steps.setdefault(epoch, []).extend(sampler)
            assert len([*sampler]) == len(sampler) == 32
    distances = [{distance for _, _, distance, _ in made} for made in steps.values()]
    assert distances[0] == distances[6] == {16} and distances[-1] == distances[-7] == {8192}
    assert all(len(d) == 1 for d in distances) and sorted(map(max, distances)) == [*map(max, distances)]
    rows = {distance: count for made in steps.values() for _, _, distance, count in made}
    assert (rows[16], rows[2048], rows[4096], rows[8192]) == (128, 128, 64, 32)  # short ones cost less
    seeds = [seed for made in steps.values() for _, seed, _, _ in made]
    assert len(set(seeds)) == len(seeds) == 2 * 30 * 32


@pytest.mark.parametrize(("motifs", "shortest"), [(2, 16), (3, 64)])
def test_a_distance_that_cannot_grow_is_refused(motifs: int, shortest: int) -> None:
    PlantedData(shortest, motifs)
    for distance in (8000, shortest // 2):
        cure = f"data.distance is {distance}; give a power of two of at least {shortest}"
        with pytest.raises(ValueError, match=cure):
            PlantedData(distance, motifs)


def test_the_parts_of_mitochondria_are_those_of_their_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TITANS_DATA", str(tmp_path))
    folder = tmp_path / "genomics" / "mldsp"
    folder.mkdir(parents=True)
    names = [f"NC_{i}" for i in range(8)]
    texts = [decode(torch.randint(4, (60,), dtype=torch.uint8)) for _ in names]
    fasta = "".join(f">{name} {'fish' if i % 2 else 'birds'}\n{texts[i]}\n" for i, name in enumerate(names))
    (folder / "vertebrates_mtdna.fasta.xz").write_bytes(lzma.compress(fasta.encode()))
    parts = ["train"] * 4 + ["dev"] * 2 + ["test"] * 2
    lines = [f"vertebrates_mtdna,{name},{part}" for name, part in zip(names, parts, strict=True)]
    lines.append("primates_mtdna,NC_0,test")  # of another set
    (folder / "splits.csv.gz").write_bytes(gzip.compress("\n".join(["set,accession,split", *lines]).encode()))
    data = MitochondriaData(max_length=50, floors=False)
    data.setup()
    assert data.classes == ["birds", "fish"] and {part: len(p) for part, p in data.parts.items()} == {
        "train": 4,
        "val": 2,
        "test": 2,
    }
    assert decode(data.parts["val"].sequences.codes[:50]) == texts[4][:50]


def test_floors_are_those_of_the_data_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [(decode(torch.randint(4, (40,), dtype=torch.uint8)), "ab"[i % 2]) for i in range(60)]
    parts = np.array(["train"] * 40 + ["val"] * 10 + ["test"] * 10)
    table = "".join(f"{text},{label},{part}\n" for (text, label), part in zip(rows, parts, strict=True))
    (tmp_path / "mine.csv").write_text(f"sequence,label,split\n{table}")
    command = TASKS["nontata group resplit"].command
    mine = (f"--data.train={tmp_path / 'mine.csv'}", "--data.layout.split_col=split", "--data.floors=false")
    found = floors_of(Run("floors", (*command, *mine)))
    assert set(found["floors"]) == {"majority", "length only", "k-mer LR"}
    assert found["floors"]["majority"]["accuracy"] == 0.5 and found["versions"]["commit"]


def test_the_config_of_a_task_is_what_the_table_trains(capsys: pytest.CaptureFixture) -> None:
    config = Path(__file__).parents[2] / "conf" / TASKS["gue/prom_core_tata"].config
    ours = resolved(TASKS["gue/prom_core_tata"].command)
    theirs = resolved(["--config", str(config), "--data.source=file"])
    assert ours == theirs
    (run,) = runs_of("gue/tf_0", "attention", 1, ["--model.optim.lr=0.01"])
    config = resolved(run.options)
    assert config["model"]["optim"]["lr"] == 0.01 and config["model"]["backbone"]["variant"] == "attention"
    assert (
        run.name.startswith("dna_gue-tf_0_attention_") and run.name != runs_of("gue/tf_0", "attention", 1, [])[0].name
    )
    with pytest.raises(SystemExit, match="2"):
        runs_of("gue/tf_0", "lmm", 1, ["--model.optim.lrr=1"])
    assert "lrr" in capsys.readouterr().err


def result(mcc: float, seed: int, **more) -> dict:
    metrics = {"test/mcc": mcc, "test/accuracy": mcc + 0.1, "test/macro_f1": mcc}
    made = {"metrics": metrics, "validation": 0.7, "parameters": 10, "steps": 5, "seconds": 1.0, "device": "x"}
    return made | {"seed": seed, "partial": False, "versions": {"commit": "c"}, **more}


def test_the_table_has_means_spreads_floors_and_the_groups_mean() -> None:
    members = [name for name, task in TASKS.items() if task.group]
    results = {(name, "lmm"): [result(0.6 + seed / 10, seed) for seed in range(3)] for name in members}
    floors = {name: {"mcc": value} for name, value in (("majority", 0.0), ("length only", 0.1), ("k-mer LR", 0.62))}
    results["gue/tf_0", "floors"] = [{"floors": floors, "versions": {"commit": "c"}}]
    results["gue/tf_0", "swa"] = [result(0.5, 0)]
    results["Cohn resplit", "lmm"] = [result(0.5, 0, partial=True)]
    rows = {row.metric: row for row in rows_of(results, "x")}
    assert rows["gue/tf_0: lmm"].value == pytest.approx(0.7) and rows["gue/tf_0: lmm"].spread == pytest.approx(0.1)
    assert rows["gue/tf_0: k-mer LR"].value == 0.62
    whole = rows["mean of nine whole GUE tasks: lmm"]
    assert whole.value == pytest.approx(0.7) and whole.misses() == [] and whole.seeds == [0, 1, 2]
    assert "mean of nine whole GUE tasks: swa" not in rows  # it lacks tasks
    assert rows["gue/prom_core_tata: lmm"].must == ">= 0.70" and rows["gue/tf_0: swa"].must == ""
    cut = rows["Cohn resplit: lmm"]
    assert cut.value == 0.6 and cut.must == "" and "PARTIAL" in cut.note  # which misses no goal


def test_old_spellings_are_taken_and_the_longest_tasks_begun_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    begun = []

    def finished(runs: Sequence[Run], workers: int, work=None) -> Iterator[tuple[Run, dict]]:
        begun.append((workers, [run.name.split("_")[1] for run in runs]))
        yield from ((run, result(0.5, 0)) for run in runs if work is None)

    monkeypatch.setattr(genomics, "finish", finished)
    asked = "genomics --tasks Cohn,131k --backbones floors,swa --seeds 1 --at-once 3 --device cpu"
    monkeypatch.setattr("sys.argv", asked.split(" "))
    genomics.main()
    longest = ["order-of-three-over-131k", "planted-pair-at-131k"]
    assert begun == [(3, ["Cohn-resplit"]), (3, [*longest, "Cohn-resplit"])]
    metrics = ["Cohn resplit: swa", "planted pair at 131k: swa", "order of three over 131k: swa"]
    assert [row.metric for row in read(path_of("genomics", "genomics"))] == metrics
    assert "--at-once is spelled --workers now" in capsys.readouterr().err


def test_the_table_is_filled_in_several_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    cut = set()  # seeds that are not reached

    def finished(runs: Sequence[Run], workers: int, work=None) -> Iterator[tuple[Run, dict]]:
        trained = [(run, int(run.name[-1])) for run in runs if work is None]
        yield from ((run, result(mcc, seed)) for run, seed in trained if seed not in cut)

    def go(asked: str) -> dict[str, float]:
        monkeypatch.setattr("sys.argv", ["genomics", *asked.split(" "), "--seeds", "2"])
        genomics.main()
        return {row.metric: row.value for row in read(path_of("genomics", "genomics"))}

    monkeypatch.setattr(genomics, "finish", finished)
    mcc = 0.5
    go("--tasks Cohn,131k --backbones attention,swa")
    mcc = 0.6
    found = go("--tasks mtDNA,Cohn --backbones lmm,swa")
    attention, swa, lmm = (f"Cohn resplit: {backbone}" for backbone in ("attention", "swa", "lmm"))
    assert found[attention] == 0.6 and found[swa] == found[lmm] == 0.7  # accuracies, a tenth above
    assert [*found][:4] == [lmm, attention, swa, "vertebrate mtDNA at 16.6 kb: lmm"]
    assert [*found][-1] == "order of three over 131k: swa" and len(found) == 9
    mcc, cut = 0.7, {1}
    assert go("--tasks Cohn --backbones swa,kmers") == found  # one seed of two takes no row's place


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--tasks=Cohn,130k", "--tasks 130k: no such task; there are gue/tf_0"),
        ("--backbones=lmm,lstm", "--backbones lstm: no such model; there are floors, lmm"),
    ],
)
def test_what_is_not_there_is_said(
    option: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["genomics", option])
    with pytest.raises(SystemExit):
        genomics.main()
    assert said in capsys.readouterr().err
