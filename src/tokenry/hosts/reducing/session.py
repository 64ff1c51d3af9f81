"""The only code that touches a running model: it shortens what the decoder is given, and puts everything back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
from jaxtyping import Bool, Int, Real
from torch import Tensor, nn

from tokenry.hosts.cost import Cost, session_cost
from tokenry.hosts.host import Host
from tokenry.hosts.reducing import layout, outputs
from tokenry.hosts.reducing.apply import Choosing
from tokenry.hosts.reducing.call import Chunk
from tokenry.hosts.reducing.hooks import Attachment, Call, Hooks
from tokenry.hosts.reducing.items import Items
from tokenry.hosts.reducing.plan import plan_methods, require_kernel
from tokenry.hosts.reducing.turns import Turns
from tokenry.hosts.trace import ItemTrace
from tokenry.hosts.upstream import (
    StaticCache,
    cache_given,
    cache_of,
    counts_by_mask,
    named_arguments,
    take_between_layers,
    takes_anything,
    watch_attention,
    whole_sequences,
)
from tokenry.hosts.vision import (
    Encoded,
    Pictures,
    Recorder,
    brings_pictures,
    embedded,
    visual_kinds,
    watch_vision,
)
from tokenry.hosts.wrappers import unwrap
from tokenry.tokens import InputError, Method, Needs, Positions, UnsupportedError

_KWARG = "tokenry_chunk"


class Session:
    """A model running on fewer visual tokens, between ``with`` and its end. Made by `tokenry.reduced`.

    Attributes:
        methods: what is applied, in order.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Method],
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
        self._choosing = Choosing(self.host, self._plan)
        self._turns = Turns()
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
        tail = chunk.tail
        stages = [chunk.stage_at(i) for i in range(len(self.host.layers))]
        return torch.stack([s.real[:, : s.real.shape[1] - tail].sum(1) for s in stages], 1).cpu()

    @property
    def cost(self) -> Cost:
        """What the last prompt cost, and would have cost with all its visual tokens."""
        chunk = self._prompt
        mask = chunk.padding_mask
        full = chunk.shape[1] if mask is None else mask[:, chunk.offset :].sum(1).cpu()
        full = full - chunk.tail
        lengths = self.lengths
        return session_cost(self.host, lengths, torch.zeros_like(lengths[:, 0]) + full)

    @property
    def selection_s(self) -> float:
        """Seconds spent choosing tokens for the last prompt."""
        return 0.0 if self._last is None else self._last.selection_s

    @property
    def _last(self) -> Chunk | None:
        """The calling thread's last prompt, else that of any thread."""
        return self._call.prompt or self._latest

    @property
    def _prompt(self) -> Chunk:
        if self._last is None:
            raise InputError(
                "Nothing has run in this session yet; call model.generate(...) or model(...) first."
            )
        return self._last

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
            call = Call()
            attachment = Attachment(self.host, call, owner)
            stack.callback(attachment.disclaim)
            if self.host.token_ids:
                self._vision = stack.enter_context(watch_vision(self.host, Needs.of_encoder(needs)))
            modules = self.host.attention_modules(self.host.layers, self._choosing.listened())
            listeners = {m: self._choosing.listener(i, self._under_way) for m, i in modules.items()}
            self._follow = stack.enter_context(watch_attention([self.host.text_config], listeners))
            self._call = call
            stack.callback(self._turns.watch(self.host.model))
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

    def _under_way(self) -> Chunk | None:
        """The call of the decoder whose tokens may be chosen in this thread."""
        return None if self._call.plain else self._call.chunk

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
        chunk = Chunk(
            self.host,
            cache,
            kwargs.get("attention_mask"),
            (like.shape[0], like.shape[1]),
            cuts=self._plan,
            prefix=like.device if brings_pictures(kwargs) else None,
        )
        chunk.tokens = ids
        self._turns.place(chunk)
        chunk.kinds = self._visual_columns(ids, kwargs, chunk)
        self._call.chunk = chunk
        chunk.memory.in_call = True
        chunk.memory.keep_in(cache)
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
            if not chunk.begins and self._choosing.listened():
                raise UnsupportedError(
                    "A picture that arrives in a later turn cannot be judged by decoder attention: the turns before "
                    "are in the cache only. Use a method of stage input, or put all pictures into the first call."
                )
            known = self._turns.items(chunk)
            if known is None:
                known = Items.find(chunk.kinds, self._pictures(), chunk.tokens, self.crops)
            chunk.meet(known)
            hidden, keep, rule = self._choosing.enter(chunk, hidden, keep)
        chunk.memory.begin()
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
            hidden = self._add_deep(chunk, i, module, hidden)
        given = kwargs.get("position_embeddings")
        if i > 0 and (i in self._plan or i in chunk.cuts):
            hidden = self._choosing.cut(i, module, chunk, hidden, kwargs)
        stage = chunk.stage_at(i)
        held = chunk.memory.columns[stage.first].shape[1]
        new = chunk.of_stage(stage, kwargs) | {"attention_mask": chunk.mask(i)}
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

    def _add_deep(self, chunk: Chunk, i: int, layer: nn.Module, hidden: Tensor) -> Tensor:
        """The tokens that layer i is given, with the encoder's deep features, as the decoder would have added them.

        Raises:
            UnsupportedError: training with checkpoints around layers that know no gradients but those of their inputs.
        """
        deep, before = chunk.deepstack[i], chunk.stage_at(max(i - 1, 0))
        if layer.training and deep.requires_grad and not torch.is_grad_enabled():
            raise UnsupportedError(
                f"{self.host.name} adds deep visual features between its layers, and under reentrant gradient "
                'checkpointing they would learn nothing. Use gradient_checkpointing_enable({"use_reentrant": False}).'
            )
        return hidden + layout.take(deep, before.columns) * (before.columns >= 0)[..., None]

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
        hidden = output[0]
        cache = cache_of(output)
        chunk.require_own(cache)
        chunk.memory.keep_in(cache)
        chunk.memory.finish()
        chunk.heard.clear()
        if chunk.begins or chunk.items is not None:  # a prompt, or pictures of a later turn
            if not chunk.again:
                self._call.prompt = self._latest = chunk
                self._turns.keep(chunk)
            chunk.outer = {}
            # Gradient checkpointing may run layers again, and add these again.
            if not torch.is_grad_enabled():
                chunk.deepstack = {}
            self._vision.pictures.clear()
        overheard = bool(module._forward_hooks)  # somebody else reads the decoder's output
        output = outputs.between_layers(chunk, output)
        full = outputs.last_hidden(chunk, hidden, None if overheard else self._call.tail or None)
        labels = self._call.labels
        if labels is not None:
            labels[:, 1:].masked_fill_(~outputs.kept(chunk)[:, :-1].to(labels.device), -100)
        if full is None:
            return output
        if isinstance(output, tuple):
            return (full, *output[1:])
        output.last_hidden_state = full
        return output

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
        # With no mask at all, gaps in position ids would read as borders of packed sequences.
        return torch.ones_like(chunk.memory.columns[0]) if mask is None else mask
