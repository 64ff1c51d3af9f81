"""The only code that touches a running model: it shortens what the decoder is given, and puts everything back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor, nn

from tokenry.hosts import layout, moving
from tokenry.hosts.attachment import Attachment, Call, Hooks
from tokenry.hosts.chunk import Chunk, Stage
from tokenry.hosts.cost import Cost, session_cost
from tokenry.hosts.host import Host
from tokenry.hosts.items import Items
from tokenry.hosts.plan import plan_methods, require_kernel
from tokenry.hosts.probes import ProbedAttention
from tokenry.hosts.trace import ItemTrace
from tokenry.hosts.vision import (
    Encoded,
    Pictures,
    Recorder,
    brings_pictures,
    embedded,
    visual_kinds,
    watch_vision,
)
from tokenry.reduce import Reducer
from tokenry.tokens import (
    AttentionView,
    InputError,
    Positions,
    ReductionError,
    UnsupportedError,
)
from tokenry.upstream import (
    StaticCache,
    cache_given,
    cache_of,
    counts_by_mask,
    named_arguments,
    parameters,
    take_between_layers,
    takes_anything,
    watch_attention,
    whole_sequences,
    with_cache,
    without_cache,
)
from tokenry.wrappers import unwrap

_KWARG = "tokenry_chunk"


class _Heard(Exception):  # noqa: N818 - not an error: it ends a layer's attention once its queries and keys are known
    pass


class Session:
    """A model running on fewer visual tokens, between ``with`` and its end. Made by `tokenry.reduced`.

    Attributes:
        methods: what is applied, in order.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Reducer],
        *,
        encoded: Encoded | None = None,
        tokens: slice | Tensor | Callable[[Tensor], Tensor] | None = None,
        crops: Sequence[int] | None = None,
    ) -> None:
        """Check that the methods fit the model; nothing is touched yet.

        Args:
            model: a transformers model.
            methods: in the order in which they act.
            encoded: pictures encoded beforehand with `tokenry.hosts.encode`.
            tokens: for a text model: which columns of a prompt count as visual - a slice, a mask (batch x tokens), or
                a function from `input_ids` to such a mask.
            crops: how many tiles each picture has, in order of appearance, where the prompt does not tell.

        Raises:
            UnsupportedError: a method cannot run on this model; the message says what can.
            TokenryError: methods in an order in which they cannot act.
        """
        self.host = Host.of(model)
        self.host.require()
        self.methods = tuple(methods)
        self.encoded = encoded
        self.tokens = tokens
        self.crops = None if crops is None else tuple(crops)
        self._plan = plan_methods(self.host, self.methods, tokens is not None)
        self._call = Call()
        self._latest: Chunk | None = None
        self._attachment: Attachment | None = None
        self._vision = Recorder()
        self._follow: Callable[[], None] = lambda: None
        self._open = ExitStack()

    @property
    def trace(self) -> list[ItemTrace]:
        """What happened to each picture of the last prompt, in order of appearance; empty if it had none.

        The last prompt is the calling thread's own where it has run one, else that of any thread.
        """
        chunk = self._prompt
        items = chunk.items
        if items is None:
            return []
        return [
            ItemTrace(
                row=row,
                index=i,
                grid=(grid[0], grid[1], grid[2]),
                n=n,
                layers=len(self.host.layers),
                steps=tuple((at, reduction.item(i).to("cpu")) for at, reduction in chunk.steps),
            )
            for i, (row, grid, n) in enumerate(
                zip(items.row.tolist(), items.grid.tolist(), chunk.delivered.tolist(), strict=True)
            )
        ]

    @property
    def lengths(self) -> Int[Tensor, "rows layers"]:
        """Real tokens of each sequence in each decoder layer, for the last prompt."""
        chunk = self._prompt
        return torch.stack([chunk.stage_at(i).real.sum(1) for i in range(len(self.host.layers))], 1).cpu()

    @property
    def cost(self) -> Cost:
        """What the last prompt cost, and would have cost with all its visual tokens."""
        chunk = self._prompt
        full = chunk.shape[1] if chunk.padding_mask is None else chunk.padding_mask.sum(1).cpu()
        lengths = self.lengths
        return session_cost(self.host, lengths, torch.zeros_like(lengths[:, 0]) + full)

    @property
    def selection_s(self) -> float:
        """Seconds spent choosing tokens for the last prompt."""
        chunk = self._call.prompt or self._latest
        return 0.0 if chunk is None else chunk.selection_s

    @property
    def _prompt(self) -> Chunk:
        chunk = self._call.prompt or self._latest
        if chunk is None:
            raise InputError(
                "Nothing has run in this session yet; call model.generate(...) or model(...) first."
            )
        return chunk

    # --- attaching and detaching ---------------------------------------------------------------------------------

    def attach(self) -> Self:
        """Run the model reduced until `detach`, whichever thread calls it; nothing happens if it is attached already.

        Each thread's calls have their own state and trace. A ``with`` block is for one thread: there, calls of others
        are refused.
        """
        if self._attachment is None or self._attachment.owned:
            self._attach(None)
        return self

    def detach(self) -> None:
        """Let the model be exactly what it was, once calls of other threads that are under way have ended.

        Raises:
            TokenryError: from within a call of the model.
        """
        if self._attachment is not None:
            self._attachment.require_outside()
            self._attachment = None
            self._open.close()
            self._call = Call()

    def __enter__(self) -> Self:
        if self._attachment is None or self._attachment.owned:
            self._attach(threading.get_ident())
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()

    def _attach(self, owner: int | None) -> None:
        with ExitStack() as stack:
            depth = self.host.depth
            needs = [m.needs(layer, depth) for layer, methods in self._plan.items() for _, m in methods]
            cls_layers = {layer for n in needs for layer in n.cls_layers}
            call = Call()
            attachment = Attachment(self.host, call, owner)
            stack.callback(attachment.disclaim)
            if self.host.token_ids:
                self._vision = stack.enter_context(watch_vision(self.host, cls_layers))
            modules = self.host.attention_modules(self.host.layers, self._listened())
            listeners = {m: self._listen(i) for m, i in modules.items()}
            self._follow = stack.enter_context(watch_attention([self.host.text_config], listeners))
            self._call = call
            stack.callback(attachment.release)
            attachment.surround(
                Hooks(
                    self._before_model,
                    self._before_base,
                    self._before_decoder,
                    self._before_layer,
                    self._after_decoder,
                )
            )
            self._attachment, self._open = attachment, stack.pop_all()

    def _listened(self) -> set[int]:
        """Decoder layers whose attention some method reads."""
        depth = self.host.depth
        layers = set()
        for layer, methods in self._plan.items():
            for _, method in methods:
                match method.needs(layer, depth).attention:
                    case "previous":
                        layers.add(layer - 1)
                    case "next":
                        layers.add(layer)
        return layers

    def _listen(self, layer: int) -> Callable[[Tensor, Tensor, Tensor | None, float], None]:
        def heard(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> None:
            call = self._call
            if call.plain or call.chunk is None or call.chunk.items is None:
                return
            wanted = call.heard.get(layer) is _WANTED
            call.heard[layer] = (query.detach(), key.detach(), scale)
            if wanted:
                raise _Heard

        return heard

    # --- hooks, in the order in which they fire ------------------------------------------------------------------

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Labels of tokens that follow a dropped one will be ignored; the user's own tensor stays as it is."""
        tail = kwargs.get("logits_to_keep")
        self._call.tail = tail if isinstance(tail, int) else 0
        if kwargs.get("labels") is not None:
            self._call.labels = kwargs["labels"].clone()
            return args, kwargs | {"labels": self._call.labels}
        return None

    def _before_base(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Open the books on this call: which of its tokens are visual, and what its cache holds."""
        kwargs = named_arguments(module, args, kwargs)
        ids = kwargs.get("input_ids")
        like = ids if ids is not None else kwargs.get("inputs_embeds")
        if like is None:
            return (), kwargs  # the model's own complaint about missing inputs is clear enough
        self._follow()
        require_kernel(self.host)  # the user may have set another since the session began
        cache = cache_given(kwargs)
        if isinstance(cache, StaticCache) and any(layer > 0 for layer in self._plan):
            raise UnsupportedError(
                "A StaticCache gives every layer the same length, so tokens cannot leave at a layer. Use the default "
                "DynamicCache, or a method that acts before the language model (stage input)."
            )
        chunk = Chunk(self.host, cache, kwargs.get("attention_mask"), (like.shape[0], like.shape[1]))
        chunk.tokens = ids
        chunk.kinds = self._visual_columns(ids, kwargs, chunk)
        self._call.chunk = chunk
        if not chunk.begins:
            chunk.expect(kwargs.get("position_ids"))
            start = chunk.memory.next
            if kwargs.get("position_ids") is None and start is not None:
                # The model would count from the shortened cache.
                counted = start[:, None] + torch.arange(like.shape[1], device=start.device)
                kwargs = kwargs | {"position_ids": counted}
            padded = kwargs.get("attention_mask") is not None and not chunk.drawn
            if self.host.base is not self.host.decoder and padded:
                held = chunk.memory.columns[0] >= 0
                new = torch.ones(chunk.shape, dtype=torch.bool, device=held.device)
                kwargs = kwargs | {"attention_mask": torch.cat([held, new], 1).long()}
        return (), kwargs

    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Cut 0: shorten embeddings, positions and mask on the way into the language model."""
        chunk = self._call.chunk
        if chunk is None or chunk.stages:
            raise UnsupportedError(
                f"The language model of {self.host.name} was called on its own (as some models' `generate` does), past "
                "the module that is given `input_ids`, so which of its tokens are visual is unknown. Call the whole "
                "model."
            )
        kwargs = named_arguments(module, args, kwargs)
        kwargs = whole_sequences(module, kwargs)
        hidden = embedded(self.host, kwargs)
        ids = self._full_ids(chunk, kwargs.get("position_ids"), hidden.device)
        mask = kwargs.get("attention_mask")
        if isinstance(mask, dict):
            chunk.outer = {name: m for name, m in mask.items() if isinstance(m, Tensor)}
        elif isinstance(mask, Tensor) and mask.ndim == 4:
            chunk.outer = {"": mask}
        chunk.deepstack = take_between_layers(kwargs, hidden)
        keep = torch.ones(chunk.shape, dtype=torch.bool, device=hidden.device)
        rule = Positions.KEEP
        if chunk.kinds:
            if not chunk.begins and self._listened():
                raise UnsupportedError(
                    "A picture that arrives in a later turn cannot be judged by decoder attention: the turns before "
                    "are in the cache only. Use a method of stage input, or put all pictures into the first call."
                )
            chunk.items = Items.find(chunk.kinds, self._pictures(), chunk.tokens, self.crops)
            whole = torch.arange(chunk.shape[1], device=hidden.device).expand(chunk.shape)
            hidden, keep, rule = self._apply(0, chunk, whole, hidden, keep)
        stage = chunk.begin(ids, keep, rule)
        hidden = layout.take(hidden, stage.columns).masked_fill((stage.columns < 0)[..., None], 0)
        out = layout.take_each(kwargs, chunk.shape, stage.columns) | {
            "inputs_embeds": hidden,
            "input_ids": None,
            "position_ids": stage.ids[0] if len(stage.ids) == 1 else stage.ids,
            "attention_mask": self._decoder_mask(chunk, mask),
        }
        if takes_anything(module):
            out[_KWARG] = chunk
        return (), out

    def _before_layer(self, i: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give layer i the tokens, mask and positions of its own stage; cut if a method acts here."""
        chunk: Chunk | None = kwargs.pop(_KWARG, None) or self._call.chunk or self._replayed()
        if chunk is None or not chunk.stages:
            return args, kwargs
        kwargs = named_arguments(unwrap(module), args, kwargs)
        hidden = kwargs["hidden_states"]
        if i in chunk.deepstack:
            before = chunk.stage_at(max(i - 1, 0))
            hidden = (
                hidden + layout.take(chunk.deepstack[i], before.columns) * (before.columns >= 0)[..., None]
            )
        given = kwargs.get("position_embeddings")
        if i > 0 and i in self._plan:
            hidden = self._cut(i, module, chunk, hidden, kwargs)
        stage = chunk.stage_at(i)
        held = chunk.memory.columns[stage.first].shape[1]
        new = self._of_stage(chunk, stage, kwargs) | {"attention_mask": chunk.mask(i)}
        if given is not None:
            new["position_embeddings"] = chunk.rotary(stage, i, given, hidden)
        if "position_ids" in kwargs:  # flash kernels read gaps in these as borders between packed sequences
            new["position_ids"] = torch.arange(held - stage.columns.shape[1], held, device=hidden.device)[
                None
            ]
        if args:
            del new["hidden_states"]
            return (hidden,), new
        return (), new | {"hidden_states": hidden}

    def _of_stage(self, chunk: Chunk, stage: Stage, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the decoder hands to a layer besides hidden states, for the tokens of the layer's own stage."""
        if stage.first == 0:
            return kwargs
        first = chunk.stages[0]
        return layout.take_each(kwargs, tuple(first.columns.shape), chunk.places(first, stage.columns))

    def _replayed(self) -> Chunk | None:
        """The last prompt, where gradient checkpointing runs a layer again in a thread of autograd's own."""
        return self._latest if torch._C._current_graph_task_id() >= 0 else None

    def _after_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Give the model an output of the length it expects: dropped tokens read zero, and their labels are ignored."""
        chunk: Chunk | None = self._call.chunk
        if chunk is None or not chunk.stages:
            return None
        chunk.memory.keep_in(cache_of(output))
        if chunk.begins:
            self._call.prompt = self._latest = chunk
            chunk.outer = {}
            # Gradient checkpointing may run layers again, and add these again.
            if not torch.is_grad_enabled():
                chunk.deepstack = {}
            self._vision.pictures.clear()
        last = chunk.stages[-1]
        hidden = output[0]
        width = chunk.shape[1]
        # Where the model looks at the last few positions only, and they were kept, the rest need not be laid out.
        tail = self._call.tail or width
        expected = torch.arange(width - tail, width, device=hidden.device)
        overheard = bool(module._forward_hooks)  # somebody else reads the decoder's output
        if (
            not overheard
            and last.columns.shape[1] >= tail
            and bool((last.columns[:, -tail:] == expected).all())
        ):
            return None
        slots = last.columns.masked_fill(last.columns < 0, width)
        full = hidden.new_zeros(hidden.shape[0], width + 1, hidden.shape[2])
        full = full.scatter(1, slots[..., None].expand_as(hidden), hidden)[:, :width]
        labels = self._call.labels
        if labels is not None:
            kept = torch.zeros(chunk.shape[0], width + 1, dtype=torch.bool, device=slots.device)
            kept = kept.scatter(1, slots, True)[:, :width]
            labels[:, 1:].masked_fill_(~kept[:, :-1].to(labels.device), -100)
        if isinstance(output, tuple):
            return (full, *output[1:])
        output.last_hidden_state = full
        return output

    # --- cutting -------------------------------------------------------------------------------------------------

    def _cut(self, i: int, layer: nn.Module, chunk: Chunk, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """The tokens that go on from layer i, and the stage they form."""
        if hidden.ndim != 3:
            raise UnsupportedError(
                f"{self.host.name}'s layers hand on several states per token ({hidden.ndim}-D), so tokens cannot leave "
                "between them. Use a method of stage input."
            )
        firsts = [stage.first for stage in chunk.stages]
        if i in firsts:  # gradient checkpointing runs the layer again: what was decided stands
            before = chunk.stages[firsts.index(i) - 1]
            for merge in chunk.merges.get(i, ()):
                hidden = merge(hidden)
            return moving.gather(chunk, before, chunk.stage_at(i), hidden)
        before = chunk.stages[-1]
        if chunk.items is None:
            chunk.carry(i)
            return hidden
        width = chunk.shape[1]
        keep = torch.zeros(chunk.shape[0], width + 1, dtype=torch.bool, device=hidden.device)
        keep = keep.scatter(1, before.columns.masked_fill(before.columns < 0, width), True)[:, :width]
        hidden, keep, rule = self._apply(i, chunk, before.columns, hidden, keep, layer, kwargs)
        return moving.gather(chunk, before, chunk.cut(i, keep, rule), hidden)

    def _apply(
        self,
        at: int,
        chunk: Chunk,
        columns: Int[Tensor, "b m"],
        hidden: Float[Tensor, "b m d"],
        keep: Bool[Tensor, "b t"],
        layer: nn.Module | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor, Positions]:
        """Run the methods that act before layer `at` on the tokens of a layout (`columns`).

        Returns:
            The hidden states with merged tokens written to their anchors, the columns that stay, and the position rule.
        """
        rule = Positions.KEEP
        for number, method in self._plan.get(at, ()):
            assert chunk.items is not None
            items = replace(chunk.items, entry=chunk.entries.setdefault(number, chunk.items.length))
            started = time.perf_counter()
            needs = method.needs(at, self.host.depth)
            attention = self._attention(needs.attention, at, chunk, hidden, layer, kwargs or {})
            slot = moving.of_items(items, layout.places(columns, chunk.shape[1]))
            # What is added to the tokens right before the first layer is part of what they are on the way in.
            whole = hidden + chunk.deepstack[0] if at == 0 and 0 in chunk.deepstack else hidden
            features = moving.take_items(whole.detach(), items, slot)
            view = items.view(
                features,
                slot,
                chunk.kinds_of(columns),
                at,
                self.host.depth,
                attention,
                moving.text_after(chunk, items, hidden.detach()) if needs.text else None,
            )
            reduction = method.apply(view)
            chunk.selection_s += time.perf_counter() - started
            if reduction.kept.shape != slot.shape or bool((reduction.length != items.length).any()):
                raise ReductionError(
                    f"{method.slug} answered with a reduction of other items than it was shown."
                )
            left = items.after(reduction)
            if not reduction.is_selection:
                target = moving.of_items(left, layout.places(columns, chunk.shape[1]))
                merge = partial(moving.merge, items=items, slot=slot, reduction=reduction, target=target)
                hidden = merge(hidden)
                chunk.merges.setdefault(at, []).append(merge)
                # Deepstack features are added to whole sequences, so they merge by column.
                deep = partial(
                    moving.merge, items=items, slot=items.columns, reduction=reduction, target=left.columns
                )
                chunk.deepstack = {i: deep(features) for i, features in chunk.deepstack.items()}
            keep = moving.mark(moving.mark(keep, items, False), left, True)
            chunk.items = left
            chunk.steps.append((at, reduction))
            if method.positions == Positions.COMPACT:
                rule = Positions.COMPACT
        return hidden, keep, rule

    def _attention(
        self,
        which: str | None,
        at: int,
        chunk: Chunk,
        hidden: Tensor,
        layer: nn.Module | None,
        kwargs: dict[str, Any],
    ) -> AttentionView | None:
        """The attention a method reads: that of the layer just run, or the next layer's on the tokens as they are."""
        if which is None:
            return None
        stage = chunk.stages[-1]
        source = at - 1
        if which == "next":
            source = at
            self._project(at, chunk, stage, hidden, layer, kwargs)
        heard = self._call.heard.pop(source, None)
        if heard is None:
            raise UnsupportedError(
                f"Layer {source} of {self.host.name} ran without its attention being heard, which a method reads: it "
                "was replaced inside the block, or does not call attention through transformers' interface."
            )
        query, key, scale = heard
        mask = chunk.mask(source)
        owner = chunk.stage_at(self.host.keys_of(source))
        if owner is not stage:  # keys of a layer before tokens left
            there = chunk.places(owner, stage.columns)
            key = layout.take(key.transpose(1, 2), there).transpose(1, 2)
            mask = None if mask is None else layout.take(mask.movedim(-1, 1), there).movedim(1, -1)
        if mask is not None and mask.ndim == 2:
            mask = None  # a flash kernel's padding mask says no more than `real`
        elif mask is not None and mask.dtype != torch.bool:
            mask = mask > torch.finfo(mask.dtype).min / 2
        return ProbedAttention(query, key, mask, stage.real, scale)

    def _project(
        self,
        at: int,
        chunk: Chunk,
        stage: Stage,
        hidden: Tensor,
        layer: nn.Module | None,
        kwargs: dict[str, Any],
    ) -> None:
        """Have a layer's own attention make queries and keys of tokens it has not run on, and stop there."""
        if layer is None or not hasattr(layer, "self_attn") or not hasattr(layer, "input_layernorm"):
            raise UnsupportedError(
                f"{self.host.name}'s layers have no `input_layernorm` and `self_attn`, so the next layer's attention "
                "cannot be looked at before it runs. Methods that read the layer before instead: fastv, aim."
            )
        given = kwargs.get("position_embeddings")
        self._call.heard[at] = _WANTED
        attention: Any = layer.self_attn
        norm: Any = layer.input_layernorm
        known = parameters(attention)
        others = {k: v for k, v in self._of_stage(chunk, stage, without_cache(kwargs)).items() if k in known}
        with torch.no_grad(), suppress(_Heard):
            attention(
                **others
                | {
                    "hidden_states": norm(hidden),
                    "position_embeddings": chunk.rotary(stage, at, given, hidden),
                    "attention_mask": chunk.mask(at),
                }
                | with_cache(attention, None)
            )

    # --- small questions -----------------------------------------------------------------------------------------

    def _visual_columns(
        self, ids: Tensor | None, kwargs: dict[str, Any], chunk: Chunk
    ) -> dict[str, Bool[Tensor, "b t"]]:
        """Which columns of this call are visual, by modality."""
        if not chunk.begins and not brings_pictures(kwargs):
            return {}  # a placeholder here is one that the model said itself
        if self.tokens is not None:
            if not chunk.begins:
                return {}
            marked = self._marked(ids, chunk)
            return {"span": marked} if bool(marked.any()) else {}
        if ids is None:
            if chunk.begins:
                raise InputError(
                    "Pass `input_ids`: from `inputs_embeds` alone, as prompt tuning makes them too, it is not known "
                    "which tokens are visual."
                )
            return {}
        kinds = visual_kinds(self.host, ids, kwargs)
        if not kinds and brings_pictures(kwargs):
            raise InputError(
                f"Pictures come with this call, but none of its {ids.shape[1]} tokens is a placeholder "
                f"({', '.join(f'{k} = {v}' for k, v in self.host.token_ids.items())}), so where they belong is unknown."
            )
        return kinds  # a prompt of text alone runs in full

    def _marked(self, ids: Tensor | None, chunk: Chunk) -> Bool[Tensor, "b t"]:
        mask = torch.zeros(chunk.shape, dtype=torch.bool, device=None if ids is None else ids.device)
        if isinstance(self.tokens, slice):
            mask[:, self.tokens] = True
        else:
            given: Any = self.tokens(ids) if callable(self.tokens) else self.tokens  # type: ignore[arg-type]
            if not isinstance(given, Tensor) or given.shape != chunk.shape:
                raise InputError(
                    f"`tokens` marks {getattr(given, 'shape', given)!r}; the prompt is {chunk.shape}."
                )
            mask = given.bool()
        if not callable(self.tokens) and not bool(mask.any()):
            raise InputError("`tokens` marks no token of this prompt.")
        return mask

    def _pictures(self) -> dict[str, Pictures]:
        return self.encoded.pictures if self.encoded is not None else self._vision.pictures

    def _full_ids(self, chunk: Chunk, ids: Tensor | None, device: torch.device) -> Real[Tensor, "a b t"]:
        """Position ids per RoPE axis and sequence."""
        b, t = chunk.shape
        if ids is None and chunk.padding_mask is not None and counts_by_mask(self.host.decoder):
            ids = (chunk.padding_mask.cumsum(1) - 1).clamp(min=0)[:, chunk.offset :]
        if ids is None:
            ids = torch.arange(chunk.offset, chunk.offset + t, device=device)[None]
        if ids.ndim == 2:
            ids = ids[None].expand(self.host.rope_axes, -1, -1)
        # With four axes the first numbers the text for packed sequences; the masks of a stage say that already.
        return ids[-self.host.rope_axes :].expand(-1, b, -1)

    def _decoder_mask(self, chunk: Chunk, given: Any) -> Any:
        """A mask that keeps the decoder from making its own; each layer is handed its stage's mask later."""
        if isinstance(given, dict):
            return dict.fromkeys(given)
        mask = chunk.mask(0)
        if (
            mask is None
        ):  # with no mask at all, gaps in position ids would read as borders of packed sequences
            return torch.ones_like(chunk.memory.columns[0])
        return mask


_WANTED: Any = object()
"""Marks a layer whose attention is run for its queries and keys only."""
