"""Decoding with draft trees: one forward pass judges many guesses, and what is accepted stays in the cache.

Used as ``model.generate(..., custom_generate=Speculation(...))``. A pass gets the root and the guesses of every row as
one block, with a mask that lets each node see the cached text and its own ancestors, and position ids by depth. The
accepted path's keys and values are then moved to where the text ends; the others are cut off.

Inside ``with tokenry.reduced(...)`` layers hold fewer tokens than the text has, and not all as many. Masks and
position ids are those of the full text there too: the session gives every layer the columns that it holds. What a pass
added is the end of each layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from tokenry.hosts.reducing import layout
from tokenry.hosts.reducing.ledger import columns_seen
from tokenry.hosts.upstream import (
    Cache,
    GenerateDecoderOnlyOutput,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
    cache_field,
    cache_given,
    cache_of,
    mask_width,
    plain_layers,
    read_prompt,
    release,
    shortest_window,
    special_search,
    with_cache,
    without_windows,
)
from tokenry.hosts.wrappers import virtual_tokens
from tokenry.predict.lm.acceptance import Greedy, Rejection, Rule, SampleAndMatch
from tokenry.predict.lm.proposer import Proposer, Verified
from tokenry.predict.lm.requirements import longest_text, require_drafts
from tokenry.predict.lm.sizing import Sizing
from tokenry.predict.lm.tree import Draft
from tokenry.tokens.errors import InputError, TokenryError, UnsupportedError

_STATEFUL: Final = (UnbatchedClassifierFreeGuidanceLogitsProcessor, SynthIDTextWatermarkLogitsProcessor)
"""Logits processors that remember their calls, and take each for one more token of the text."""


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
        embeddings = model_kwargs.get("inputs_embeds")
        columns = input_ids.shape[1] if embeddings is None else embeddings.shape[1]
        run = _Run(
            self, model, input_ids, columns, logits_processor, stopping_criteria, generation_config, stream_to
        )
        return run.decode(model_kwargs)


class _Run:
    """One call of `generate`."""

    def __init__(
        self,
        how: Speculation,
        model: PreTrainedModel,
        input_ids: Tensor,
        columns: int,
        processors: LogitsProcessorList,
        stopping: StoppingCriteriaList,
        config: GenerationConfig,
        streamer: Any,
    ) -> None:
        self.how, self.model, self.processors, self.stopping = how, model, processors, stopping
        self.config, self.streamer = config, streamer
        require_drafts(model)
        self._refuse(len(input_ids), columns)
        self.prompt = input_ids
        self.columns = columns  # of the prompt: one that came as embeddings has no ids
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self.cache: Cache | None = None
        self.hidden: Tensor | None = None  # of the last pass, if the proposer wants to see it
        self.written: list[list[int]] = [[] for _ in input_ids]
        self.done = [False for _ in input_ids]

    def _refuse(self, rows: int, columns: int) -> None:
        """Refuse what the options ask for and guesses would change; what a model lacks is told before."""
        config = self.config
        if config.num_beams > 1:
            raise UnsupportedError(
                f"Draft trees decode one text a row; num_beams={config.num_beams} does not fit."
            )
        search = special_search(config)
        if search is not None:
            raise UnsupportedError(
                f"These options ask for {search}, a way of decoding of its own; draft trees stand for greedy search "
                "and sampling. Leave them off, or the decoder."
            )
        asked = [name for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
                 if getattr(config, name)]  # fmt: skip
        if asked and config.return_dict_in_generate:
            raise UnsupportedError(f"{asked[0]} is not kept while guesses are judged; leave it off.")
        stateful = next(
            (type(each).__name__ for each in self.processors if isinstance(each, _STATEFUL)), None
        )
        if stateful is not None:
            raise UnsupportedError(
                f"{stateful} counts its calls as tokens of the text, but guesses are processed too; leave "
                "guidance_scale (or the watermark) off, or decode without drafts."
            )
        if not config.use_cache:
            raise UnsupportedError("Draft trees are judged against the cached text; leave use_cache on.")
        if not columns:
            raise InputError("The prompt is empty: give at least one token, such as the model's start token.")
        if self.streamer is not None and rows > 1:
            raise InputError("A streamer shows one text; hand in one prompt, or leave the streamer off.")

    # ---------------------------------------------------------------------------------------------------- the loop

    @torch.no_grad()
    def decode(self, kwargs: dict[str, Any]) -> Tensor | GenerateDecoderOnlyOutput:
        try:
            with self._listening():
                if self.streamer is not None:
                    self.streamer.put(self.prompt.cpu())
                self._begin(kwargs)
                while not all(self.done):
                    self._step()
        except KeyboardInterrupt:
            self.how.stats.interrupted = True
        if self.streamer is not None:
            self.streamer.end()
        self._close()
        return self._output()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Note what enters the output layer, for a proposer that wants it."""
        if not self.how.proposer.hidden:
            yield
            return

        def heard(module: nn.Module, args: Any, output: Any) -> None:
            self.hidden = output[0]

        handle = cast(nn.Module, self.model.get_decoder()).register_forward_hook(heard)
        try:
            yield
        finally:
            handle.remove()

    def _rule(self, draft: Draft) -> Rule:
        if self.how.rule is not None:
            return self.how.rule
        if not self.config.do_sample:
            return Greedy()
        return SampleAndMatch() if draft.proposal is None else Rejection()

    def _begin(self, kwargs: dict[str, Any]) -> None:
        """The pass over the prompt, as the model itself prepares it, and the first token."""
        model = self.model
        self.alive = self._seen(kwargs.get("attention_mask"))
        real = self.alive[:, -self.columns :]
        rows = self._known(real)
        cache = cache_given(kwargs)
        self._open(cache)
        fresh = not columns_seen(cache)
        # Where the next token stands is the model's own business: multi-axis positions go on after the picture's.
        output, positions = read_prompt(model, self.prompt, self.config, kwargs)
        self._adopt(cache_of(output), fresh)
        self.positions = (
            torch.full((len(rows), 1), self.width, device=self.prompt.device)
            if positions is None
            else positions
        )
        self.how.proposer.begin(rows, self._read(real))
        self._check(output.logits)
        for row in range(len(rows)):
            nothing = Draft.of(rows[row][-1] if rows[row] else 0, [])
            scores = partial(self._scores, row, output.logits[row, -1:], nothing)
            first = self._rule(nothing).walk(nothing, scores)
            self._write(row, [first.token])
        self.how.stats._first = len(rows)
        self.texts = [prompt + new for prompt, new in zip(rows, self.written, strict=True)]

    def _seen(self, mask: Tensor | None) -> Bool[Tensor, "b t"]:
        """Which columns of the text are no padding: those in the cache of earlier turns, and the prompt's."""
        if mask is not None:
            return mask.bool()
        # `generate` leaves out a mask of ones, and notes how long it was: prompts may hold the new turn only.
        width = max(mask_width(self.config), self.columns)
        return self.prompt.new_ones(len(self.prompt), width, dtype=torch.bool)

    def _known(self, real: Bool[Tensor, "b s"]) -> list[list[int]]:
        """The tokens of each prompt, without padding; none where it came as embeddings alone."""
        if self.prompt.shape[1] == self.columns:
            return [row[keep].tolist() for row, keep in zip(self.prompt, real, strict=True)]
        if self.how.proposer.hidden:
            raise UnsupportedError(
                f"{type(self.how.proposer).__name__} reads the prompt's tokens, and this prompt came as "
                "`inputs_embeds` without them; hand in its `input_ids` too."
            )
        return [[] for _ in self.prompt]

    def _open(self, cache: Any) -> None:
        """Refuse a cache that cannot give tokens back before the prompt is read."""
        name = type(self.model).__name__
        if not isinstance(cache, Cache):
            raise UnsupportedError(
                f"{name} keeps no cache of keys and values that tokens could be taken out of again; draft trees need "
                "attention in every layer."
            )
        if self.how.proposer.hidden and cache.get_seq_length():
            raise UnsupportedError(
                f"{type(self.how.proposer).__name__} reads the whole prompt, but the cache holds "
                f"{cache.get_seq_length()} tokens of it already; leave the cache off."
            )
        window = shortest_window(self.model.config.get_text_config())
        longest = self.alive.shape[1] - self.prompt.shape[1] + int(self.config.max_length)
        if window is not None and window < longest:
            raise UnsupportedError(
                f"{name} has layers that look back over a sliding window of {window} tokens, and a cache with windows "
                f"cannot give tokens back; this text may grow to {longest}. Ask for at most {window} tokens, prompt "
                "included, or decode without drafts."
            )
        without_windows(cache)
        if cache.layers:
            plain_layers(cache)

    def _adopt(self, cache: Cache, fresh: bool) -> None:
        """The cache once the prompt is in it.

        Args:
            cache: what the model returned.
            fresh: whether nothing was in it before.
        """
        self.held = [layer.get_seq_length() for layer in plain_layers(cache)]
        virtual = virtual_tokens(self.model) if fresh else 0
        if virtual:
            self._put_in_front(virtual, columns_seen(cache) - self.alive.shape[1])
        if columns_seen(cache) != self.alive.shape[1]:
            raise InputError(
                f"Prompt and attention mask stand for {self.alive.shape[1]} tokens, the cache for "
                f"{columns_seen(cache)}. With a cache from an earlier turn, pass the new tokens and an "
                "attention mask over all of the text, outside `tokenry.reduced` if it was filled outside, else inside."
            )
        self.cache, self.width = cache, self.alive.shape[1]

    def _put_in_front(self, virtual: int, found: int) -> None:
        """Count the trained prompt that peft puts before the text."""
        if found != virtual:
            raise UnsupportedError(
                f"PEFT was to put {virtual} virtual tokens in front of the prompt, and {found} came to "
                f"{type(self.model).__name__}: these releases of peft and transformers ({release()}) do not know each "
                "other's names, and model.generate would decode without the trained prompt. Update peft."
            )
        self.alive = torch.cat([self.alive.new_ones(len(self.alive), virtual), self.alive], 1)

    def _read(self, real: Bool[Tensor, "b s"]) -> list[Float[Tensor, "_ d"]] | None:
        """Hidden states of the prompts' tokens, if the proposer wants to see them."""
        if self.hidden is None:
            return None
        if self.hidden.shape[1] != real.shape[1]:
            raise UnsupportedError(
                f"{type(self.how.proposer).__name__} reads the whole prompt in one pass; leave prefill_chunk_size off."
            )
        return [h[keep] for h, keep in zip(self.hidden, real, strict=True)]

    def _step(self) -> None:
        how = self.how
        drafts = self._drafts()
        logits = self._forward(drafts)
        self._check(logits)
        how.stats.forwards += 1
        paths: list[tuple[int, ...]] = []
        for row, draft in enumerate(drafts):
            if self.done[row]:
                paths.append(())
                continue
            n = draft.tree.n
            accepted = self._rule(draft).walk(draft, partial(self._scores, row, logits[row, :n], draft))
            verified = Verified(
                draft,
                logits[row, :n],
                accepted,
                logits[row, n : draft.rows] if draft.probes is not None else None,
                self.hidden[row, :n] if self.hidden is not None else None,
            )
            how.proposer.learn(row, verified)
            how.stats.nodes += draft.rows
            how.stats.steps += 1
            written = self._write(row, verified.written)
            self.texts[row].extend(verified.written[:written])
            paths.append(accepted.path[:written])  # where a text ends, its last token is not in the cache
        self._compact(paths, logits.shape[1])

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
        if self.done[row]:
            return Draft.of(text[-1], [])
        limit = self._fitting(limit) if self._left(row) > 1 else 0
        return self._checked(self.how.proposer.propose(row, text, limit), text)

    def _fitting(self, limit: int) -> int:
        """Of so many guesses, those that stand within the model's positions: a table of them may end there.

        Texts that go on beyond their model's positions are the model's business, as without drafts.
        """
        longest = longest_text(self.model.config.get_text_config())
        free = -1 if longest is None else longest - self.alive.shape[1] - 1
        return min(limit, free) if free >= 0 else limit

    def _left(self, row: int) -> int:
        """How many tokens a row may still write."""
        return int(self.config.max_length) - self.prompt.shape[1] - len(self.written[row])

    def _write(self, row: int, tokens: Sequence[int]) -> int:
        """Take over tokens one by one until a stopping criterion holds; how many were."""
        for count, token in enumerate(tokens, 1):
            self.written[row].append(token)
            self.how.stats.tokens += 1
            if self.streamer is not None:
                self.streamer.put(torch.tensor([token]))
            # Criteria may answer for each row by its number, so they see as many, of which this is one.
            ids = self._ids(row).expand(len(self.prompt), -1)
            if bool(self.stopping(cast(Any, ids), cast(Any, None))[row]):
                self.done[row] = True
                return count
        return len(tokens)

    def _ids(self, row: int, more: Sequence[int] = ()) -> Int[Tensor, "1 t"]:
        """A row as transformers' criteria and processors want it: padded prompt and what follows."""
        new = torch.tensor([[*self.written[row], *more]], dtype=self.prompt.dtype, device=self.prompt.device)
        return torch.cat([self.prompt[row : row + 1], new], 1)

    def _scores(
        self, row: int, logits: Float[Tensor, "n v"], draft: Draft, path: list[int]
    ) -> Float[Tensor, " v"]:
        """Processed logits at the end of a path of nodes."""
        raw = logits[path[-1]].to(torch.float32, copy=True)
        if not self.processors:
            return raw
        before = [int(draft.tokens[node]) for node in path[1:]]
        # Some processors know which row of the batch they see, so they see as many, of which this is one.
        rows = len(self.prompt)
        ids = self._ids(row, before).expand(rows, -1)
        return self.processors(cast(Any, ids), cast(Any, raw.repeat(rows, 1)))[row]

    # ------------------------------------------------------------------------------------------------ one forward

    def _forward(self, drafts: Sequence[Draft]) -> Float[Tensor, "b n v"]:
        """Logits at the nodes and probes of every row's draft; rows with fewer of them are padded."""
        device = self.prompt.device
        n = max(draft.rows for draft in drafts)
        tokens = np.zeros((len(drafts), n), np.int64)
        depth = np.zeros((len(drafts), n), np.int64)
        sees = np.zeros((len(drafts), n, n), bool)
        sees[:, range(n), range(n)] = True  # padding sees itself, or its softmax would have nothing to sum
        for row, draft in enumerate(drafts):
            m, all_ = draft.tree.n, draft.rows
            tokens[row, :m], depth[row, :m], sees[row, :m, :m] = (
                draft.tokens,
                draft.tree.depth,
                draft.tree.ancestors,
            )
            if (probes := draft.probes) is not None:
                depth[row, m:all_] = draft.tree.depth[probes.after] + probes.depth
                sees[row, m:all_, :m] = draft.tree.ancestors[probes.after]
                sees[row, m:all_, m:all_] = probes.sees
        # What stands behind the longest text cannot be accepted; a table of positions may end there.
        room = int(self.config.max_length) - self.prompt.shape[1] - 2 - self.alive[:, self.width :].sum(1)
        depths = torch.minimum(torch.from_numpy(depth).to(device), room.clamp(min=0)[:, None])
        visible = torch.cat(
            [self.alive[:, None].expand(-1, n, -1), torch.from_numpy(sees).to(device)], dim=-1
        )
        output = self.model(
            **self._inputs(drafts, torch.from_numpy(tokens).to(device)),
            attention_mask=layout.additive(visible[:, None], self.model.dtype),  # right for every kernel
            position_ids=self.positions + depths,
            **with_cache(self.model, self.cache),
            use_cache=True,
            return_dict=True,
        )
        return output.logits

    def _inputs(self, drafts: Sequence[Draft], tokens: Int[Tensor, "b n"]) -> dict[str, Tensor]:
        """The rows of a pass as ids, or as embeddings where some are no tokens."""
        if all(draft.probes is None for draft in drafts):
            return {"input_ids": tokens}
        embeddings = cast(nn.Module, self.model.get_input_embeddings())(tokens)
        for row, draft in enumerate(drafts):
            if draft.probes is not None:
                embeddings[row, draft.tree.n : draft.rows] = draft.probes.embeddings.to(embeddings)
        return {"inputs_embeds": embeddings}

    def _compact(self, paths: Sequence[tuple[int, ...]], n: int) -> None:
        """Keep the accepted nodes' keys and values, right behind the text, and cut off the others."""
        longest = max(map(len, paths))
        slots = np.zeros((len(paths), longest), np.int64)
        real = np.zeros((len(paths), longest), bool)
        for row, path in enumerate(paths):
            slots[row, : len(path)], real[row, : len(path)] = path, True
        self._keep_of_last(n, slots)
        alive = torch.from_numpy(real).to(self.prompt.device)
        self.alive = torch.cat([self.alive, alive], 1)
        self.positions = self.positions + alive.sum(1)[:, None]

    def _keep_of_last(self, n: int, slots: Int[np.ndarray, "b k"]) -> None:
        """Of the last `n` tokens in every layer of the cache, keep some of each row, in the given order."""
        k = slots.shape[1]
        straight = bool((slots == np.arange(k)).all())  # they already lie where they should
        index = torch.from_numpy(slots).to(self.prompt.device)[:, None, :, None]
        for layer in plain_layers(self.cache):
            held = layer.get_seq_length() - n
            for name in ("keys", "values"):
                whole = getattr(layer, name)
                if not straight:
                    where = index.expand(-1, whole.shape[1], -1, whole.shape[3])
                    whole[:, :, held : held + k] = whole[:, :, held:].gather(2, where)
                setattr(layer, name, whole[:, :, : held + k])

    def _close(self) -> None:
        """Leave the cache as plain decoding does: every token that was written, but the last of the longest text, lies
        where it stands in the text."""
        kept = self.config.return_dict_in_generate or getattr(self.cache, "_is_user_defined", False)
        if self.cache is None or not kept:
            return
        here = self.alive.shape[1] - self.width
        for layer, held in zip(plain_layers(self.cache), self.held, strict=True):
            layer.crop(min(0, held + here - layer.get_seq_length()))  # of a pass that was interrupted
        # Not all has been through the model: the last token of a text that ended early, what was being taken over
        # when an interruption came.
        most = max(map(len, self.written)) - 1
        cached = self.alive[:, self.width :].sum(1).tolist()
        late = [tokens[n : max(most, n)] for tokens, n in zip(self.written, cached, strict=True)]
        if any(late):
            drafts = [Draft.of(tokens[0], [tokens[1:]]) if tokens else Draft.of(0, []) for tokens in late]
            self._forward(drafts)
            self._compact([tuple(range(len(tokens))) for tokens in late], max(map(len, late)))
        real = self.alive[:, self.width :].cpu().numpy()
        if not real.all():  # rows got on at different speeds
            order = np.argsort(~real, axis=1, kind="stable")
            self._keep_of_last(real.shape[1], order[:, : int(real.sum(1).max())])

    # ----------------------------------------------------------------------------------------------------- checks

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

    def _check(self, logits: Tensor) -> None:
        if bool(torch.isfinite(logits.sum())):
            return
        if bool((logits.isnan() | logits.isposinf()).any()):  # minus infinity is a way to say never
            raise TokenryError(
                f"{type(self.model).__name__} gave logits that are not numbers after {len(self.written[0])} tokens; "
                f"its weights or its precision ({self.model.dtype}) are to blame, not the drafts."
            )

    def _output(self) -> Tensor | GenerateDecoderOnlyOutput:
        pad = self.config.pad_token_id
        pad = 0 if pad is None else int(pad)
        longest = max(map(len, self.written))
        new = [[*tokens, *[pad] * (longest - len(tokens))] for tokens in self.written]
        tail = torch.tensor(new, dtype=self.prompt.dtype, device=self.prompt.device)
        ids = torch.cat([self.prompt, tail.reshape(len(new), longest)], 1)
        if self.config.return_dict_in_generate:
            kept = cache_field(GenerateDecoderOnlyOutput, self.cache)
            return GenerateDecoderOnlyOutput(sequences=cast(Any, ids), **kept)
        return ids
