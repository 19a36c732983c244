"""The language model as the application runs it: scores, carried state, warm starts, and its own tokenizer."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from app.door import main
from app.errors import is_for_user
from app.module import load_module
from app.tokens import IGNORE
from data_prep.text import prepare
from domains.text import LanguageHead, TextData
from domains.text.batch import TextBatch
from memory import MemoryConfig

SHORT = ("--trainer.max_steps=6", "--trainer.val_check_interval=3", "--trainer.limit_val_batches=2")
BEST = "runs/text_lm/version_0/checkpoints/best.ckpt"


def test_one_test_reports_every_convention(run: Callable, capsys: pytest.CaptureFixture) -> None:
    run("fit", *SHORT)
    tested = run("test", "--data.eval_length=300")
    results = json.loads(Path("runs/text_lm/version_0/results.json").read_text())
    scores = {name.removeprefix("test/"): value for name, value in results["metrics"].items()}
    assert {"nats", "ppl_byte", "bpb", "word_ppl", "nats_at_0", "nats_at_256"} == scores.keys()

    part, module = tested.datamodule.prepared[0]["val"], tested.model.eval()
    total, tokens = 0.0, 0
    ids = torch.from_numpy(np.asarray(part.ids, np.int64))
    for start in range(0, len(ids) - 1, 300):  # the same windows once more, with plain cross-entropy
        x, y = ids[start : start + 300], ids[start + 1 : start + 301]
        with torch.no_grad():
            hidden, _ = module.backbone(module.head.embed_ids(x[None, : len(y)]))
            logits = hidden[0] @ module.head.embedding.weight.T
        nats = torch.nn.functional.cross_entropy(logits, y, reduction="none")[y != 256]
        total, tokens = total + nats.sum().item(), tokens + len(nats)
    assert tokens == part.bytes  # every byte of the text is scored once
    expected = {
        "nats": total / tokens,
        "ppl_byte": math.exp(total / tokens),
        "bpb": total / math.log(2) / part.bytes,
        "word_ppl": math.exp(total / part.words),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert results["data"]["sha256"] == hashlib.sha256(np.asarray(part.ids)).hexdigest()
    assert results["data"]["tokenizer"] == "byte" and results["data"]["test_part"] == "val"
    assert results["data"]["evaluation"] == "windows of 300, no overlap, fresh state"

    run("predict", "--data.eval_length=300")
    table = pd.read_csv("runs/text_lm/version_0/predictions.csv")
    assert table.tokens.sum() == tokens and list(table.start[:2]) == [0, 300]
    assert (table.tokens * table.nats).sum() == pytest.approx(total, rel=1e-4)


def test_a_model_of_one_story_learns_it(model: Callable) -> None:
    module = model(variant="lmm", layers=1).float().train()
    ids = torch.from_numpy(TextData(source="sample").prepared[0]["train"].ids[:65].astype("int64"))[None]
    batch, optimizer = TextBatch(ids[:, :-1], ids[:, 1:]), torch.optim.AdamW(module.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = module.head.loss(module(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - math.log(257)) < 1.5 and losses[-1] < losses[0] / 3


@pytest.mark.parametrize(
    ("variant", "by_document"),
    [("lmm", False), ("mac", False), ("mag", False), ("mag", True), ("mal", False), ("swa", False)],
)
def test_carried_rows_are_those_of_one_long_sequence(
    data: Callable, model: Callable, variant: str, by_document: bool
) -> None:
    """Rows that begin and rows that go on in one batch: the loss is that of each window read alone, from its start."""
    module = model(variant=variant, segment=4)
    loader = data(tbptt=3, tbptt_groups=2, by_document=by_document).train_dataloader()
    module.log, lag = lambda *_, **__: None, loader.sampler.groups
    read, mixed = [[torch.empty(1, 0, dtype=torch.int64)] * 4] * lag, 0
    for i, batch in zip(range(3 * lag), loader, strict=False):
        loss = module.training_step(batch, i)
        mixed += bool(batch.fresh.any() and not batch.fresh.all())
        rows = zip(read[i % lag], batch.inputs[:, None], batch.fresh, strict=True)
        read[i % lag] = [new if fresh else torch.cat([old, new], 1) for old, new, fresh in rows]
        hidden = [module.backbone(module.head.embed_ids(ids))[0][:, -16:] for ids in read[i % lag]]
        torch.testing.assert_close(loss, module.head.loss(torch.cat(hidden), batch), rtol=0, atol=1e-10)
        module.zero_grad()
        loss.backward()  # the graph begins with this piece; that of the piece before is freed already
        assert all(p.grad is not None for p in module.parameters())  # DDP waits for the gradient of each
    assert mixed >= lag == len(module.carried) == 2
    assert not any(t.requires_grad for state in module.carried for t in state.tensors())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"variant": "lmm"}, "multiple of memory.chunk"),
        ({"variant": "mac", "segment": 6, "memory": MemoryConfig(heads=2, chunk=1)}, "multiple of memory.chunk"),
        ({"variant": "attention"}, "attention over the whole past cannot begin rows of a batch beside others"),
    ],
    ids=["chunk", "segment", "attention"],
)
def test_what_cannot_be_carried_row_by_row_is_refused(
    data: Callable, model: Callable, sizes: dict, message: str
) -> None:
    module, batches = model(**sizes), data(tbptt=2, length=14).train_dataloader()
    module.log = lambda *_, **__: None
    with pytest.raises(ValueError, match=message) as refused:
        for i, batch in enumerate(batches):
            module.training_step(batch, i)
    assert is_for_user(refused.value)


def test_training_never_waits_for_the_device(data: Callable, model: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = model(variant="mac", segment=4), next(iter(data(tbptt=2).train_dataloader()))
    module.log = lambda *_, **__: None

    def synced(*_: object) -> None:
        raise AssertionError("a tensor was read on the host")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, synced)
    module.training_step(batch, 0).backward()
    module.training_step(batch, 1).backward()


def test_the_vocabulary_is_filled_up_for_fast_products_only() -> None:
    head = LanguageHead(8, 257)
    assert head.embedding.weight.shape == (320, 8) and head.logits(torch.randn(2, 8)).shape == (2, 257)
    hidden = torch.randn(1, 3, 8)
    batch = TextBatch(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([[5, IGNORE, 7]]))
    logits = hidden[0] @ head.embedding.weight.T
    expected = torch.nn.functional.cross_entropy(logits, batch.targets[0])
    torch.testing.assert_close(head.loss(hidden, batch), expected)


def test_few_targets_need_few_logits() -> None:
    """The loss and its gradients are those of all tokens."""
    head, hidden = LanguageHead(8, 257), torch.randn(2, 50, 8, requires_grad=True)
    targets = torch.full((2, 50), IGNORE)
    targets[0, 3], targets[1, 40], targets[1, 49] = 5, 6, 7
    gradients = []
    for scored in (None, (targets != IGNORE).flatten().nonzero()[:, 0]):
        loss = head.loss(hidden, TextBatch(targets.clamp(min=0), targets, scored=scored))
        gradients.append((loss, *torch.autograd.grad(loss, (hidden, head.embedding.weight))))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[1][1].abs().sum(-1).count_nonzero() == 3


def test_an_answer_is_right_as_a_whole_or_not_at_all(model: Callable) -> None:
    head = model(variant="lmm").head
    head.embedding = torch.nn.Embedding.from_pretrained(torch.eye(320, dtype=torch.float64))
    targets = torch.tensor([[IGNORE, 5, 6], [IGNORE, 5, 7], [8, 9, IGNORE], [5, IGNORE, IGNORE]])
    written = torch.tensor([[1, 5, 6], [1, 5, 6], [8, 9, 1], [6, 1, 1]])
    batch, metrics = TextBatch(written, targets, exact=True), head.metrics()
    head.update(metrics, head.embedding(written) * 30, batch)
    scores = metrics.compute()
    assert scores["exact"] == 0.5 and "bpb" not in scores


def test_another_tokenizer_is_one_line(run: Callable, corpus: Path, capsys: pytest.CaptureFixture) -> None:
    run("fit", *SHORT)
    prepare(str(corpus), "bpe-257", Path("other"), workers=1)  # a vocabulary of the same size with other ids
    for command in (
        ["test", "--ckpt", BEST, "--data.folder", "other"],
        ["fit", "--ckpt", BEST, "--data.folder", "other", "--trainer.max_steps=9"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: the checkpoint's tokenizer is byte (sha256 ") and "the data's is byte" in line


def test_damaged_tokens_are_one_line(run: Callable, corpus: Path, capsys: pytest.CaptureFixture) -> None:
    path = prepare(str(corpus), "byte", workers=1) / "train.bin"
    whole = path.read_bytes()

    def refused() -> str:
        with pytest.raises(SystemExit) as stop:
            run("fit", *SHORT)
        assert stop.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert not any("Traceback" in line for line in lines)
        return lines[-1]

    path.write_bytes(whole[:-10])
    line = refused()
    assert line.startswith(f"error: {path}: {len(whole) - 10} bytes where the index says {len(whole)}; it was cut")
    path.write_bytes(b"\xff\x03" * (len(whole) // 2))
    assert "train.bin: its checksum is not that of the index" in refused()
    path.write_bytes(whole)
    for part in ("train", "valid"):
        (corpus / f"{part}.jsonl").write_text("\n")
    with pytest.raises(SystemExit):
        run("fit", *SHORT, "--data.folder=elsewhere")
    assert f"error: {corpus}: the corpus is empty" in capsys.readouterr().err.splitlines()[-1]


def test_tokens_of_another_corpus_of_the_same_name_are_refused(corpus: Path, prepared: Path) -> None:
    other = corpus.with_name("elsewhere") / corpus.name
    with pytest.raises(ValueError, match=f"prepared from {corpus}, not from {other}; set data.folder"):
        TextData(str(other)).setup()
    TextData(str(other), folder=str(prepared)).setup()


CONFIGS = Path(__file__).parents[3] / "conf"


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("text_*.yaml")))
def test_every_config_is_read(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--config={CONFIGS / name}", "--print_config"])
    assert not stop.value.code and "domains.text.LanguageHead" in capsys.readouterr().out


def test_training_starts_from_another_runs_weights(run: Callable, capsys: pytest.CaptureFixture) -> None:
    run("fit", *SHORT)
    started = run("fit", *SHORT, f"--model.init_from={BEST}", "--model.optim.lr=1e-30")
    before = torch.load(BEST)["state_dict"]
    assert all(torch.equal(p.detach(), before[name]) for name, p in started.model.named_parameters())
    assert started.trainer.global_step == 6
    with pytest.raises(SystemExit):
        run("fit", *SHORT, f"--model.init_from={BEST}", "--model.backbone.dim=32")
    assert "does not fit the model" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        run("fit", *SHORT, "--model.init_from=nope.ckpt")
    assert "there is no file nope.ckpt" in capsys.readouterr().err.splitlines()[-1]
    assert load_module(BEST).head.context == 16


def test_without_a_corpus_the_text_is_generated_and_says_so(root: Path) -> None:
    with pytest.warns(UserWarning, match="(?s)shakespeare could not be prepared.*GENERATED DATA"):
        data = TextData(corpus="shakespeare", folder=str(root / "nowhere"), tokenizer="byte")
        data._prepare = _prepare_offline(data)
        data.setup()
    assert data.provenance()["data"] == "sample" and data.provenance()["test_part"] == "test"
    with pytest.raises(FileNotFoundError, match="no txt, jsonl or parquet file is there"):
        TextData(corpus="nope", source="file").setup()
    again = TextData(source="sample")
    again.setup()
    assert (again.prepared[0]["val"].ids == data.prepared[0]["val"].ids).all()


def _prepare_offline(data: TextData) -> Callable[[], None]:
    from domains.text import data as module

    def prepare_offline() -> None:
        def no_network(*_: object, **__: object) -> None:
            raise FileNotFoundError("no network")

        original, module.prepare = module.prepare, no_network
        try:
            TextData._prepare(data)
        finally:
            module.prepare = original

    return prepare_offline
