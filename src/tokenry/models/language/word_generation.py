"""Writing text with models that read words and spell them: what `generate` is for HAT and for Learn Your Tokens.

A turn writes one word of every text: the backbone reads the words before it once, and a decoder spells the next one
until the sign that ends words. The backbone's cache grows by a word a turn and is never rolled back; the decoder's
starts anew with each word.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenry.hosts.upstream import DynamicCache, with_cache
from tokenry.models.language.ragged import pad_words, word_lengths
from tokenry.tokens.errors import InputError


@dataclass(frozen=True)
class UnitIds:
    """The ids with which a model spells words.

    Attributes:
        pad: padding, in tensors of words.
        end: what the decoder writes behind a word.
        stop: a word of its own, after which a text ends; None if the model has none.
        offset: of bytes: byte ``b`` has id ``b + offset``.
    """

    pad: int
    end: int
    stop: int | None = None
    offset: int = 0


@dataclass(frozen=True)
class WrittenText:
    """One text that was written.

    Attributes:
        text: what is new, without the prompt; bytes that are no UTF-8 became U+FFFD.
        words: the words that were spelt; the first is the prompt's last one, finished.
        log_prob: log-probability of those words in nats, with their ends and the stop, the prompt's bytes included.
        stopped: whether the text ended by itself and not because it is long enough.
    """

    text: str
    words: tuple[bytes, ...]
    log_prob: float
    stopped: bool


class WordWriting:
    """`generate` and `stream` for a model of words; a base class beside `PreTrainedModel`.

    A model has a ``decoder`` that takes ``inputs_embeds`` and a cache, a ``head`` from its states to units, and a
    configuration with ``word_splitter()``, ``max_word_bytes`` and, if it cannot read more, ``max_words``.
    """

    unit_ids: UnitIds

    if TYPE_CHECKING:  # of PreTrainedModel and of the model itself
        config: Any
        decoder: Any
        head: nn.Module

        @property
        def device(self) -> torch.device: ...
        @property
        def opening(self) -> list[bytes]: ...
        def new_cache(self) -> DynamicCache: ...
        def read(self, words: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor: ...
        def embed_unit(self, units: Tensor, place: int) -> Tensor: ...

    def generate(
        self,
        texts: str | Sequence[str],
        *,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> list[WrittenText]:
        """Continue texts.

        The last word of a prompt is never taken for finished: the decoder starts with its bytes as a forced prefix.

        Args:
            texts: prompts; an empty one is possible if the model has a word that starts texts.
            max_new_tokens: most new bytes of each text.
            do_sample: draw bytes instead of taking the likeliest.
            temperature: of drawing.
            seed: of drawing.

        Raises:
            InputError: if there is nothing to start from, or a setting makes no sense.
        """
        prompts = [texts] if isinstance(texts, str) else list(texts)
        writer = _Writer(self, prompts, max_new_tokens, temperature if do_sample else None, seed)
        for _ in writer.run():
            pass
        return writer.results()

    def stream(
        self,
        text: str,
        *,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """Continue one text and hand out every word as soon as it is written; arguments as for `generate`."""
        writer = _Writer(self, [text], max_new_tokens, temperature if do_sample else None, seed)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for new in writer.run():
            if piece := decoder.decode(new[0]):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest


class _Writer:
    """The state of one call. Texts with fewer words have padding in front."""

    def __init__(
        self, model: WordWriting, prompts: list[str], limit: int, temperature: float | None, seed: int
    ) -> None:
        if not prompts:
            raise InputError("There is no text to continue: hand in at least one.")
        if limit < 1:
            raise InputError(f"max_new_tokens counts new bytes and must be at least 1, got {limit}")
        if temperature is not None and temperature <= 0:
            raise InputError(
                f"Temperature must be above 0, got {temperature}; for the likeliest bytes do not sample."
            )
        cut = [model.config.word_splitter().split(prompt) for prompt in prompts]
        # the last word may go on: it is forced on the decoder, and not yet read by the backbone
        self.forced = [words[-1] if words else b"" for words in cut]
        self.before = [model.opening + words[:-1] for words in cut]
        if not all(self.before):
            raise InputError(
                "This model has no word that starts a text: a prompt must have a complete word before its last one."
            )
        self.model, self.temperature, self.ids = model, temperature, model.unit_ids
        self.generator = torch.Generator(model.device).manual_seed(seed)
        self.written: list[list[bytes]] = [[] for _ in prompts]
        self.left = [limit + len(forced) for forced in self.forced]
        self.log_prob = [0.0 for _ in prompts]
        self.stopped = [False for _ in prompts]

    def run(self) -> Iterator[list[bytes]]:
        """Write a word of every text per turn and yield what is new of each."""
        cache = self.model.new_cache()
        words = self._pad(self.before, left=True)
        mask = word_lengths(words, self.ids.pad) > 0
        forced = self.forced
        while True:
            new = self._spell(self._read(words, mask, cache), forced)
            yield [word[len(prefix) :] for word, prefix in zip(new, forced, strict=True)]
            full = mask.shape[1] == getattr(self.model.config, "max_words", None)
            if full or not any(self._open(row) for row in range(len(new))):
                return
            forced = [b""] * len(new)
            # a text that is finished goes on with a word that nobody reads
            words = self._pad([[word or b"."] for word in new])
            mask = F.pad(mask, (0, 1), value=True)

    def results(self) -> list[WrittenText]:
        """What was written."""
        return [
            WrittenText(
                b"".join(words)[len(forced) :].decode("utf-8", "replace"), tuple(words), log_prob, stopped
            )
            for words, forced, log_prob, stopped in zip(
                self.written, self.forced, self.log_prob, self.stopped, strict=True
            )
        ]

    def _open(self, row: int) -> bool:
        return not self.stopped[row] and self.left[row] > 0

    def _pad(self, documents: Sequence[Sequence[bytes]], left: bool = False) -> Tensor:
        return pad_words(documents, self.ids.pad, offset=self.ids.offset, left=left).to(self.model.device)

    @torch.no_grad()
    def _read(self, words: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        return self.model.read(words, mask, cache)

    @torch.no_grad()
    def _spell(self, inputs: Tensor, forced: list[bytes]) -> list[bytes]:
        """The next word of every text; empty where the text has ended."""
        cache = DynamicCache(config=self.model.decoder.config)
        words = [bytearray() for _ in forced]
        going = [self._open(row) for row in range(len(forced))]
        place = 0
        while any(going):
            states = self.model.decoder(
                inputs_embeds=inputs, **with_cache(self.model.decoder, cache), use_cache=True
            )
            log_probs = self.model.head(states.last_hidden_state[:, -1]).float().log_softmax(-1)
            units = self._choose(log_probs, place).tolist()
            for row, word in enumerate(words):
                if not going[row]:
                    continue
                if place < len(forced[row]):
                    units[row] = forced[row][place] + self.ids.offset
                self.log_prob[row] += float(log_probs[row, units[row]])
                going[row] = self._put(row, word, units[row])
            chosen = torch.tensor(units, device=inputs.device)
            inputs = self.model.embed_unit(chosen, place).to(inputs.dtype)
            place += 1
        for row, word in enumerate(words):
            if word:
                self.written[row].append(bytes(word))
        return [bytes(word) for word in words]

    def _put(self, row: int, word: bytearray, unit: int) -> bool:
        """Add a unit to a word; whether the word goes on."""
        if unit == self.ids.end:
            return False
        if unit == self.ids.stop:
            self.stopped[row] = True
            return False
        word.append(unit - self.ids.offset)
        self.left[row] -= 1
        return self.left[row] > 0

    def _choose(self, log_probs: Tensor, place: int) -> Tensor:
        """A unit for every text: a stop only instead of a word, an end only behind one, and surely at the limit."""
        unit = torch.arange(log_probs.shape[1], device=log_probs.device)
        if place == self.model.config.max_word_bytes:
            allowed = unit == self.ids.end
        else:
            allowed = (unit != self.ids.pad) | (unit == self.ids.end)
            never = self.ids.end if place == 0 else self.ids.stop
            if never is not None:
                allowed &= unit != never
        scores = log_probs.masked_fill(~allowed, -torch.inf)
        if self.temperature is None:
            return scores.argmax(-1)
        return torch.multinomial((scores / self.temperature).softmax(-1), 1, generator=self.generator)[:, 0]
