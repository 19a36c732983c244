"""The DataModule of language modelling: a prepared corpus, a corpus that is prepared on the way, or generated text."""

from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from torch.utils.data import DataLoader

from app.errors import user_errors
from app.sample import Source, refuse_or_announce
from app.tokens import loader
from app.windows import STAGES, StreamBatches, WindowedData
from data_prep.files import DownloadError
from data_prep.index import INDEX
from data_prep.text import default_folder, outdated, prepare
from data_prep.tokenizer import end_id, load, sha256, size
from domains.text.batch import TextWindows
from domains.text.sample import documents
from domains.text.tokens import TextTokens, read_tokenizer, read_tokens

SAMPLE = {"train": 2000, "val": 100, "test": 100}  # generated stories


class TextData(WindowedData):
    """Windows of a tokenized corpus.

    Training reads full windows at places that differ from epoch to epoch. Evaluation reads the part once, in windows
    that do not overlap, each from a fresh state, so every token but the first is scored exactly once.

    Args:
        corpus: shakespeare, wikitext-2, wikitext-103, books, novels, code, or a folder or file of txt, jsonl or
            parquet.
        tokenizer: byte, bpe-N (trained on the corpus), gpt2, neox, mistral, or a file.
        length: tokens T of a training sequence.
        batch_size: sequences per step, over all devices together.
        tbptt: pieces of T tokens of a window, a step each; a row carries its state, detached, from one to the next.
        tbptt_groups: groups of B sequences that take turns while state is carried, each with states of its own.
        length_warmup: steps in which sequences grow from T / 8 to T, at equal tokens per step; 0 for none.
        eval_length: tokens of an evaluation window; by default T.
        by_document: no sequence reaches into another document: each starts with a fresh state.
        source: `auto` takes the prepared tokens, else prepares the corpus, else generates text; `file` and `sample`
            insist.
        folder: prepared tokens; by default text/tokens/CORPUS-TOKENIZER in the data folder (TITANS_DATA or `data`).
        seed: what the generated text follows from.
        end_token: what stands before every document; by default what the tokenizer puts before a text, <|endoftext|> or
            <s>.
    """

    def __init__(
        self,
        corpus: str = "shakespeare",
        tokenizer: str = "byte",
        length: int = 256,
        batch_size: int = 64,
        tbptt: int = 1,
        tbptt_groups: int = 8,
        length_warmup: int = 0,
        eval_length: int | None = None,
        by_document: bool = False,
        source: Source = "auto",
        folder: str | None = None,
        seed: int = 0,
        end_token: str | None = None,
    ) -> None:
        super().__init__()
        if min(length, batch_size, tbptt, tbptt_groups, eval_length or 1) < 1 or length_warmup < 0:
            raise ValueError(
                "data.length, batch_size, tbptt, tbptt_groups and eval_length must be at least 1, length_warmup 0"
            )
        if length_warmup and length % 2**STAGES:
            raise ValueError(f"data.length {length} must be divisible by {2**STAGES} for a length_warmup")
        self.corpus = corpus
        self.tokenizer_name = tokenizer
        self.source = source
        self.seed = seed
        self.folder = Path(folder) if folder else default_folder(corpus, tokenizer)
        self.end_token = end_token
        self.shared = folder is None  # corpora whose paths end alike share the default folder
        self.length = length
        self.batch_size = batch_size
        self.length_warmup = length_warmup
        self.tbptt = tbptt
        self.tbptt_groups = tbptt_groups
        self.eval_length = eval_length or length
        self.by_document = by_document

    @cached_property
    def prepared(self) -> tuple[dict[str, TextTokens], Tokenizer, str | None]:
        """Parts, tokenizer, and its checksum (None for generated text)."""
        with user_errors():
            if self.source != "sample":
                if not (self.folder / INDEX).is_file():
                    self._prepare()
                if (self.folder / INDEX).is_file():
                    parts, index = read_tokens(self.folder)
                    origin = index["made_from"]["corpus"]
                    if self.shared and Path(origin).resolve() != Path(self.corpus).resolve():
                        raise ValueError(
                            f"{self.folder}: prepared from {origin}, not from {self.corpus}; set data.folder to tell "
                            "them apart"
                        )
                    if outdated(index["made_from"], self.corpus):
                        raise ValueError(
                            f"{self.corpus}: changed since the tokens in {self.folder} were made of it; delete these, "
                            "or run `python -m data_prep text` as they were made"
                        )
                    if index["made_from"]["end_token"] != self.end_token:
                        raise ValueError(
                            f"{self.folder}: prepared with data.end_token {index['made_from']['end_token']}, not "
                            f"{self.end_token}; set data.folder to tell them apart"
                        )
                    tokenizer = read_tokenizer(self.folder)
                    if sha256(tokenizer) != index["tokenizer"]["sha256"]:
                        raise ValueError(f"{self.folder}/tokenizer.json is not that of the bins; prepare them again")
                    return parts, tokenizer, index["tokenizer"]["sha256"]
            return self._sample()

    def _prepare(self) -> None:
        try:
            prepare(self.corpus, self.tokenizer_name, self.folder, end_token=self.end_token)
        except (FileNotFoundError, DownloadError) as error:
            refuse_or_announce(self.source, self.corpus, f"could not be prepared ({error})", error)

    def _sample(self) -> tuple[dict[str, TextTokens], Tokenizer, None]:
        texts = {part: list(documents(n, self.seed + i)) for i, (part, n) in enumerate(SAMPLE.items())}
        tokenizer = load(self.tokenizer_name, texts["train"], end_token=self.end_token)
        end = end_id(tokenizer)
        parts = {}
        for part, stories in texts.items():
            ids = [[end, *e.ids] for e in tokenizer.encode_batch(stories, add_special_tokens=False)]
            sizes = np.array([len(i) for i in ids])
            text = "".join(stories)
            parts[part] = TextTokens(
                np.concatenate(ids).astype(np.uint32),
                sizes.cumsum() - sizes,
                size(tokenizer),
                f"the generated {part} part",
                bytes=len(text.encode()),
                words=len(text.split()),
            )
        return parts, tokenizer, None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the data."""
        return self.prepared[1]

    @property
    def output_size(self) -> int:
        """TextTokens of the vocabulary; the corpus is read, or prepared, to know them."""
        return size(self.tokenizer)

    def prepare_data(self) -> None:
        """Prepare the corpus if need be (Lightning calls this in one process of a machine)."""
        self.prepared  # noqa: B018

    def setup(self, stage: str | None = None) -> None:
        """Cut each part into windows; where there is no test part, `test` reads the validation part."""
        parts = self.prepared[0]
        missing = [part for part in ("train", "val") if part not in parts]
        if missing:
            raise ValueError(f"{self.folder}: no {missing[0]} part; add files named {missing[0]}* and prepare it again")
        self.test_part = "test" if "test" in parts else "val"
        self.windows = {"train": self._windows(parts["train"], True)}
        self.windows |= {part: self._windows(parts[part], False) for part in ("val", self.test_part)}

    def _windows(self, tokens: TextTokens, training: bool) -> TextWindows:
        needed = self.length * self.tbptt + 1 if training and not self.by_document else 2
        if len(tokens.ids) < needed:
            raise ValueError(f"{tokens.name}: {len(tokens.ids)} tokens, but length x tbptt needs {needed}; shorten it")
        length, pieces = (self.length, self.tbptt) if training else (self.eval_length, 1)
        return TextWindows(tokens, length, pieces, self.by_document, training)

    def train_dataloader(self) -> DataLoader:
        """Full windows, shuffled anew each epoch, and their pieces one after another."""
        windows = self.windows["train"]
        batches = StreamBatches(windows, self.batch_size, self.length_warmup, groups=self.tbptt_groups)
        return loader(windows, batches)

    def provenance(self) -> dict[str, object]:
        """Corpus (`sample` for generated text), tokenizer, sizes, and how it is evaluated; after `setup`."""
        parts, tokenizer, checksum = self.prepared
        return {
            "data": Path(self.corpus).name if checksum else "sample",
            "sha256": parts[self.test_part].checksum,  # of the tokens that are scored
            "tokenizer": self.tokenizer_name,
            "tokenizer_sha256": sha256(tokenizer),
            "test_part": self.test_part,
            "evaluation": f"windows of {self.eval_length}, no overlap, fresh state"
            + (" and document" if self.by_document else ""),
            **{f"{part}_tokens": len(tokens.ids) for part, tokens in parts.items()},
            **{f"{part}_words": tokens.words for part, tokens in parts.items()},
            **{f"{part}_bytes": tokens.bytes for part, tokens in parts.items()},
        }
