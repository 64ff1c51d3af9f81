"""Decoding with draft trees: one forward pass judges many guesses, and what is accepted stays in the cache.

Used as ``model.generate(..., custom_generate=Speculation(...))``. A proposer guesses (`proposer`), the model judges its
guesses in one pass (`verifier`), a rule accepts some of them (`acceptance`), and they are written (`transcript`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from tokenry.hosts.upstream import GenerateDecoderOnlyOutput, cache_field
from tokenry.predict.lm.acceptance import Accepted, Greedy, Rejection, Rule, SampleAndMatch
from tokenry.predict.lm.proposer import Proposer, Verified
from tokenry.predict.lm.requirements import require_drafts, require_options
from tokenry.predict.lm.sizing import Sizing
from tokenry.predict.lm.transcript import Transcript
from tokenry.predict.lm.tree import Draft
from tokenry.predict.lm.verifier import Verifier
from tokenry.tokens.errors import TokenryError


@dataclass
class DecodingStats:
    """What decoding took.

    Attributes:
        tokens: written, over all rows.
        forwards: passes after the one over the prompt.
        nodes: judged, over all passes and rows: roots, guesses and probes.
        steps: rows over all passes: what a row wrote in one pass counts once.
        interrupted: whether it was stopped with Ctrl-C.
    """

    tokens: int = 0
    forwards: int = 0
    nodes: int = 0
    steps: int = 0
    interrupted: bool = False

    def raise_if_interrupted(self) -> None:
        """Go on with Ctrl-C where half a text is of no use: `generate` hands back what it has.

        Raises:
            KeyboardInterrupt: it was stopped.
        """
        if self.interrupted:
            raise KeyboardInterrupt

    @property
    def acceptance_length(self) -> float:
        """Tokens written per row and pass; 1 without drafts."""
        return (self.tokens - self._first) / self.steps if self.steps else float("nan")

    _first: int = field(default=0, repr=False)


@dataclass(frozen=True, eq=False)
class Speculation:
    """A way of decoding: ``model.generate(**inputs, custom_generate=speculation)``.

    Attributes:
        proposer: makes the guesses.
        sizing: how many of them a pass judges.
        rule: which of them are kept; None for greedy or sampled decoding without loss, as `do_sample` says and as
            the guesses were made.
        stats: of the last call.
    """

    proposer: Proposer
    sizing: Sizing
    rule: Rule | None = None
    stats: DecodingStats = field(default_factory=DecodingStats)

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Int[Tensor, "b s"],
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        stream_to: Any = None,
        **model_kwargs: Any,
    ) -> Int[Tensor, "b t"] | GenerateDecoderOnlyOutput:
        """What `generate` calls; the arguments are those of transformers' own decoding loops.

        Its `streamer` is not among them: transformers (5.20 to 5.24) does not hand it on. ``model.generate(...,
        custom_generate=speculation, stream_to=streamer)`` streams.
        """
        self.stats.__init__()  # type: ignore[misc]
        require_drafts(model)
        embeddings = model_kwargs.get("inputs_embeds")
        columns = input_ids.shape[1] if embeddings is None else embeddings.shape[1]
        streams = 0 if stream_to is None else len(input_ids)
        require_options(generation_config, logits_processor, columns, streams)
        verifier = Verifier(model, input_ids, columns, generation_config, self.proposer)
        text = Transcript(input_ids, generation_config, logits_processor, stopping_criteria, stream_to)
        return _Run(self, verifier, text, generation_config).decode(model_kwargs)


class _Run:
    """One call of `generate`."""

    def __init__(
        self, how: Speculation, verifier: Verifier, transcript: Transcript, config: GenerationConfig
    ) -> None:
        self.how, self.verifier, self.transcript, self.config = how, verifier, transcript, config
        self.vocabulary = int(verifier.model.config.get_text_config().vocab_size)

    @torch.no_grad()
    def decode(self, kwargs: dict[str, Any]) -> Tensor | GenerateDecoderOnlyOutput:
        verifier, transcript, stats = self.verifier, self.transcript, self.how.stats
        try:
            with verifier.listening():
                transcript.begin()
                self._begin(kwargs)
                while not all(transcript.done):
                    self._step()
        except KeyboardInterrupt:
            stats.interrupted = True
        finally:
            stats.tokens = transcript.tokens
        transcript.end()
        verifier.close(transcript.written)
        ids = transcript.sequences()
        if self.config.return_dict_in_generate:
            kept = cache_field(GenerateDecoderOnlyOutput, verifier.cache)
            return GenerateDecoderOnlyOutput(sequences=cast(Any, ids), **kept)
        return ids

    def _begin(self, kwargs: dict[str, Any]) -> None:
        """The pass over the prompt, and the first token of each row."""
        read = self.verifier.read(kwargs)
        self.how.proposer.begin(read.texts, read.hidden)
        self._require_numbers(read.logits)
        for row, text in enumerate(read.texts):
            nothing = Draft.of(text[-1] if text else 0, [])
            self.transcript.write(row, [self._walk(row, nothing, read.logits[row, -1:]).token])
        self.how.stats._first = len(read.texts)
        self.texts = [text + new for text, new in zip(read.texts, self.transcript.written, strict=True)]

    def _step(self) -> None:
        """One pass: drafts for all rows, judged at once, and what of them is written."""
        drafts = self._drafts()
        logits = self.verifier.judge(drafts)
        self._require_numbers(logits)
        self.how.stats.forwards += 1
        paths = [
            () if self.transcript.done[row] else self._take(row, draft, logits[row])
            for row, draft in enumerate(drafts)
        ]
        self.verifier.accept(paths, logits.shape[1])

    def _take(self, row: int, draft: Draft, logits: Float[Tensor, "n v"]) -> tuple[int, ...]:
        """Write what the model accepts of a row's draft; the nodes that are text now."""
        how, n = self.how, draft.tree.n
        accepted = self._walk(row, draft, logits[:n])
        hidden = self.verifier.hidden
        verified = Verified(
            draft,
            logits[:n],
            accepted,
            logits[n : draft.rows] if draft.probes is not None else None,
            hidden[row, :n] if hidden is not None else None,
        )
        how.proposer.learn(row, verified)
        how.stats.nodes += draft.rows
        how.stats.steps += 1
        written = self.transcript.write(row, verified.written)
        self.texts[row].extend(verified.written[:written])
        return accepted.path[:written]  # where a text ends, its last token is not in the cache

    def _walk(self, row: int, draft: Draft, logits: Float[Tensor, "n v"]) -> Accepted:
        """What the rule accepts of a draft, by the model's logits at its nodes."""
        rule = self.how.rule
        if rule is None and not self.config.do_sample:
            rule = Greedy()
        elif rule is None:
            rule = SampleAndMatch() if draft.proposal is None else Rejection()
        return rule.walk(draft, partial(self.transcript.scores, row, logits, draft))

    # ------------------------------------------------------------------------------------------------------ drafts

    def _drafts(self) -> list[Draft]:
        """The guesses for every row, as many as are worth judging."""
        sizing = self.how.sizing
        most = sizing.most(len(self.texts))
        drafts = [self._draft(row, most) for row in range(len(self.texts))]
        if all(draft.chance is None for draft in drafts):
            return drafts
        size = sizing.choose(drafts)
        return [draft if draft.chance is None else draft.first(size) for draft in drafts]

    def _draft(self, row: int, limit: int) -> Draft:
        """The guesses for a row."""
        text = self.texts[row]
        if self.transcript.done[row]:
            return Draft.of(text[-1], [])
        limit = self.verifier.fitting(limit) if self.transcript.left(row) > 1 else 0
        return self._checked(self.how.proposer.propose(row, text, limit), text)

    def _checked(self, draft: Draft, text: Sequence[int]) -> Draft:
        name = type(self.how.proposer).__name__
        strange = draft.tokens[(draft.tokens < 0) | (draft.tokens >= self.vocabulary)]
        if len(strange):
            raise TokenryError(
                f"{name} proposed token {int(strange[0])}, outside the vocabulary of {self.vocabulary}; it was made "
                "for another model."
            )
        if draft.tokens[0] != text[-1]:
            raise TokenryError(
                f"{name} proposed a draft with token {int(draft.tokens[0])} as its root; the text ends with {text[-1]}."
            )
        return draft

    def _require_numbers(self, logits: Tensor) -> None:
        """Refuse to go on from logits that are none; minus infinity is a way to say never."""
        if bool(torch.isfinite(logits.sum())):
            return
        if bool((logits.isnan() | logits.isposinf()).any()):
            model = self.verifier.model
            raise TokenryError(
                f"{type(model).__name__} gave logits that are not numbers after {len(self.transcript.written[0])} "
                f"tokens; its weights or its precision ({model.dtype}) are to blame, not the drafts."
            )
