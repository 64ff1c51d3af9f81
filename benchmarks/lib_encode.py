"""What encoding with a LiB vocabulary costs, against the BPE of `tokenizers` on the same text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from benchmarks.common import interleave, write
from tokenry.data.text.corpora import load_corpus
from tokenry.text.lib.learning import Lib, fit
from tokenry.text.training import train_bpe
from tokenry.text.transplant.tokenadapt.supertokens import train_supertokens

SIZE, TRAIN, TEST = 8192, 2_000_000, 300_000


@dataclass
class Way:
    """Encoding the documents with a core that has seen no text before: both libraries' caches are empty."""

    tokenizer: PreTrainedTokenizerFast
    texts: Sequence[str]
    tokens: int = 0
    _core: Tokenizer = field(init=False)

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """Make a new core, untimed."""
        self._core = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        yield

    def __call__(self) -> None:
        """One `encode` a document, on the calling thread."""
        self.tokens = sum(len(self._core.encode(text, add_special_tokens=False)) for text in self.texts)


def run(console: Console, rounds: int) -> None:
    """300 kB of held-out man pages, 8,192 entries each, one thread."""
    train, test = load_corpus("manpages/en").split(seed=0)
    learned_from = _up_to(train.documents, TRAIN)
    texts = _up_to(test.documents, TEST)
    lexicon = fit(Lib().learn(learned_from), SIZE - 257)
    tokenizers = {
        "BPE, GPT-2's bounds": train_bpe(learned_from, SIZE),
        "BPE, bounded by spaces": train_bpe(learned_from, SIZE, pre_tokenizer="words"),
        "supertokens": train_supertokens(learned_from, SIZE),
        "LiB, fewest chunks (the default)": lexicon.tokenizer(),
        "LiB, longest match": lexicon.tokenizer(rule="longest"),
    }
    ways = {name: Way(tokenizer, texts) for name, tokenizer in tokenizers.items()}
    timed = interleave(ways, rounds, around={name: way.fresh for name, way in ways.items()})
    rule = interleave({"rule": lambda: [lexicon.segment(text) for text in texts]}, 3, warm_up=0)["rule"]
    size = sum(len(text.encode()) for text in texts)
    bpe = timed["BPE, GPT-2's bounds"]
    rows = [
        {
            "encoder": name,
            "MB/s": size / timed[name].median / 1e6,
            "throughput over BPE": bpe.over(timed[name]),
            "bytes per token": size / way.tokens,
        }
        for name, way in ways.items()
    ]
    rows.append(
        {
            "encoder": "LiB, the paper's rule in Python",
            "MB/s": size / rule.median / 1e6,
            "throughput over BPE": bpe.median / rule.median,
            "bytes per token": size / sum(len(lexicon.segment(text)) for text in texts),
        }
    )
    write("lib-encode", rows, {"throughput over BPE, LiB, fewest chunks": ">= 0.5"}, console)


def _up_to(texts: Sequence[str], limit: int) -> list[str]:
    """The first documents, up to so many characters."""
    taken: list[str] = []
    for text in texts:
        if limit <= 0:
            break
        taken.append(text[:limit])
        limit -= len(text)
    return taken
