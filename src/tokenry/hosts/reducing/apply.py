"""The methods of a session at work: what each is shown at its cut, and what becomes of the tokens that it lets go."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenry.hosts.host import Host
from tokenry.hosts.masks import visible
from tokenry.hosts.reducing import item_io, layout
from tokenry.hosts.reducing.attention import AttentionOfSome, ProbedAttention
from tokenry.hosts.reducing.call import DecoderCall, Segment
from tokenry.hosts.reducing.items import Items
from tokenry.hosts.upstream import (
    ATTENTION_STEPS,
    Listener,
    attention_steps,
    parameters,
    with_cache,
    without_cache,
)
from tokenry.tokens import (
    AttentionView,
    DenseReduction,
    Method,
    Positions,
    Reduction,
    ReductionError,
    TokenView,
    UnsupportedError,
)


class MethodRunner:
    """What the methods of a plan decide about the tokens of a call, cut by cut.

    Several methods at one cut act one after the other: each is shown the tokens that the one before it left.
    """

    def __init__(self, host: Host, plan: dict[int, list[tuple[int, Method]]]) -> None:
        """Nothing is run yet.

        Args:
            host: the model.
            plan: which methods act before which decoder layer, each with its number, from `plan_methods`.
        """
        self.host, self.plan = host, plan

    # --- listening to attention ----------------------------------------------------------------------------------

    def listened(self) -> set[int]:
        """Decoder layers whose attention some method reads."""
        layers = set()
        for layer, methods in self.plan.items():
            for _, method in methods:
                match method.needs(layer, self.host.depth).attention:
                    case "previous":
                        layers.add(layer - 1)
                    case "next":
                        layers.add(layer)
        return layers

    def listener(self, layer: int, under_way: Callable[[], DecoderCall | None]) -> Listener:
        """What a layer's attention reports its queries and keys to, for the call of the decoder that is under way."""

        def heard(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> bool:
            call = under_way()
            if call is None or call.items is None:
                return False
            probed = call.probed == layer
            if not probed and any(segment.first > layer for segment in call.segments):
                return False  # gradient checkpointing runs the layer again
            call.heard[layer] = (query.detach(), key.detach(), scale)
            return probed

        return heard

    # --- cutting -------------------------------------------------------------------------------------------------

    def enter(
        self, call: DecoderCall, hidden: Float[Tensor, "b t d"], keep: Bool[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t d"], Bool[Tensor, "b t"], Positions]:
        """Cut 0, on the way into the decoder.

        Returns:
            The hidden states with merged tokens written to their anchors, the columns that stay, and what happens to
            their position ids.
        """
        columns = torch.arange(call.shape[1], device=hidden.device).expand(call.shape)
        rule = Positions.KEEP
        for number, method in self.plan.get(0, ()):
            shown = columns.masked_fill(~keep, -1)
            hidden, keep = self._apply(0, number, method, call, shown, hidden, keep, lambda: None)
            rule = _stricter(rule, method)
        return hidden, keep, rule

    def cut(
        self, i: int, layer: nn.Module, call: DecoderCall, hidden: Tensor, kwargs: dict[str, Any]
    ) -> Tensor:
        """The hidden states that go on from layer i; the segment that they form is the call's last.

        Raises:
            UnsupportedError: layers that hand on several states per token.
        """
        if any(segment.first == i for segment in call.segments):
            # Gradient checkpointing runs the layer again: what was decided stands.
            self._refuse_learned(i)
            for move in call.moves.get(i, ()):
                hidden = move(hidden)
            return hidden
        if hidden.ndim != 3:
            raise UnsupportedError(
                f"{self.host.name}'s layers hand on several states per token ({hidden.ndim}-D), so tokens cannot leave "
                "between them. Use a method of stage input."
            )
        if call.items is None:
            call.carry(i)
            return hidden
        ran, rule = call.segments[-1], Positions.KEEP
        moves = call.moves.setdefault(i, [])
        for number, method in self.plan.get(i, ()):
            before = call.segments[-1]
            keep = layout.marked(before.columns, call.shape[1])
            attention = partial(self._attention, method, i, call, ran, hidden, layer, kwargs)
            hidden, keep = self._apply(i, number, method, call, before.columns, hidden, keep, attention)
            rule = _stricter(rule, method)
            gather = partial(item_io.gather, call, before, call.cut(i, keep, rule))
            moves.append(gather)
            hidden = gather(hidden)
        call.heard.clear()
        return hidden

    def _refuse_learned(self, i: int) -> None:
        """Under checkpointing a choice is made without a record for gradients, so none would reach its method."""
        learned = [m.slug for _, m in self.plan.get(i, ()) if m.differentiable]
        if learned and torch.is_grad_enabled():
            raise UnsupportedError(
                f"{learned[0]} learns from what the model makes of its choice before layer {i}, which gradient "
                "checkpointing cuts off. Call model.gradient_checkpointing_disable() to train it."
            )

    def _apply(
        self,
        at: int,
        number: int,
        method: Method,
        call: DecoderCall,
        columns: Tensor,
        hidden: Float[Tensor, "b m d"],
        keep: Bool[Tensor, "b t"],
        attention: Callable[[], AttentionView | None],
    ) -> tuple[Float[Tensor, "b m d"], Bool[Tensor, "b t"]]:
        """Run one method on the tokens of a layout (`columns`): hidden states after merging, and what stays."""
        assert call.items is not None
        items = replace(call.items, entry=call.entries.setdefault(number, call.items.length))
        slot = item_io.of_items(items, layout.places(columns, call.shape[1]))
        if (at, number) not in call.decisions:
            started = time.perf_counter()
            # Without a record for gradients, unless they are the point of it (see `_refuse_learned`).
            with torch.set_grad_enabled(method.differentiable and torch.is_grad_enabled()):
                shown = self._view(at, method, call, items, slot, columns, hidden, attention())
                decided = method.apply(shown)
            _require_fit(method, decided, slot, items.length)
            call.decisions[at, number] = decided
            call.selection_s += time.perf_counter() - started
        reduction = call.decisions[at, number]
        left = items.after(reduction)
        if not reduction.is_selection:
            target = item_io.of_items(left, layout.places(columns, call.shape[1]))
            merge = partial(item_io.merge, items=items, slot=slot, reduction=reduction, target=target)
            hidden = merge(hidden)
            if at > 0:
                call.moves[at].append(merge)
            # Deepstack features are added to whole sequences, so they merge by column.
            whole = partial(
                item_io.merge, items=items, slot=items.columns, reduction=reduction, target=left.columns
            )
            call.deepstack = {i: whole(features) for i, features in call.deepstack.items()}
        call.items = left
        call.steps.append((at, reduction))
        return hidden, item_io.mark(item_io.mark(keep, items, False), left, True)

    def _view(
        self,
        at: int,
        method: Method,
        call: DecoderCall,
        items: Items,
        slot: Int[Tensor, "items n"],
        columns: Int[Tensor, "b m"],
        hidden: Float[Tensor, "b m d"],
        attention: AttentionView | None,
    ) -> TokenView:
        """What a method is shown: what stands behind the prompt in the same call, such as drafts, has no say in it."""
        prompt = slice(0, hidden.shape[1] - call.tail)
        # What is added to the tokens right before the first layer is part of what they are on the way in.
        whole = hidden + call.deepstack[0] if at == 0 and 0 in call.deepstack else hidden
        text = None
        if method.needs(at, self.host.depth).text:
            text = item_io.text_after(call, items, hidden[:, prompt], columns[:, prompt])
        return items.view(
            item_io.take_items(whole, items, slot),
            slot,
            call.kinds_of(columns[:, prompt]),
            at,
            self.host.depth,
            attention,
            text,
        )

    # --- attention -----------------------------------------------------------------------------------------------

    def _attention(
        self,
        method: Method,
        at: int,
        call: DecoderCall,
        ran: Segment,
        hidden: Tensor,
        layer: nn.Module,
        kwargs: dict[str, Any],
    ) -> AttentionView | None:
        """The attention a method reads: that of the layer just run, or the next layer's on the tokens as they are."""
        now = call.segments[-1]
        match method.needs(at, self.host.depth).attention:
            case None:
                return None
            case "next":
                self._project(at, call, now, hidden, layer, kwargs)
                return self._heard_at(at, call, now)
            case _:
                executed = self._heard_at(at - 1, call, ran)
                if now is ran:
                    return executed
                # A method before this one has let tokens of the layer that ran go: it ran on all of them.
                prompt = now.columns[:, : now.columns.shape[1] - call.tail]
                index = call.places(ran, prompt).masked_fill(prompt < 0, -1)
                return AttentionOfSome(executed, index, ran.columns.shape[1] - call.tail)

    def _heard_at(self, layer: int, call: DecoderCall, segment: Segment) -> ProbedAttention:
        """The attention of a layer over the tokens of a segment, as far as the prompt goes."""
        if layer not in call.heard:
            raise UnsupportedError(
                f"Layer {layer} of {self.host.name} ran without its attention being heard, which a method reads: it "
                "was replaced inside the block, or does not call attention through transformers' interface."
            )
        query, key, scale = call.heard[layer]
        mask = call.mask(layer)
        owner = call.segment_at(self.host.keys_of(layer))
        if owner.first < segment.first:  # keys of a layer before tokens left
            there = call.places(owner, segment.columns)
            key = layout.take(key.transpose(1, 2), there).transpose(1, 2)
            mask = None if mask is None else layout.take(mask.movedim(-1, 1), there).movedim(1, -1)
        if mask is not None and mask.ndim == 2:
            mask = None  # a flash kernel's padding mask says no more than `real`
        elif mask is not None:
            mask = visible(mask)
        n = query.shape[2] - call.tail
        mask = None if mask is None else mask[..., :n, :n]
        return ProbedAttention(query[:, :, :n], key[:, :, :n], mask, segment.real[:, :n], scale)

    def _project(
        self,
        at: int,
        call: DecoderCall,
        segment: Segment,
        hidden: Tensor,
        layer: nn.Module,
        kwargs: dict[str, Any],
    ) -> None:
        """Have a layer's own attention make queries and keys of tokens it has not run on, and attend to nothing."""
        steps = attention_steps(layer)
        if steps is None:
            raise UnsupportedError(
                f"{self.host.name}'s layers have no {ATTENTION_STEPS}, so the next layer's attention cannot be looked "
                "at before it runs. Use a method whose `needs` asks for the attention of the layer before, or for none."
            )
        given = kwargs.get("position_embeddings")
        norm, attention = steps
        known = parameters(attention)
        others = {k: v for k, v in call.of_segment(segment, without_cache(kwargs)).items() if k in known}
        own = {
            "hidden_states": norm(hidden),
            "position_embeddings": call.rotary(segment, at, given, hidden),
            "attention_mask": call.mask(at),
        }
        call.probed = at
        try:
            attention(**others | own | with_cache(attention, None))
        finally:
            call.probed = None


def _stricter(rule: Positions, method: Method) -> Positions:
    """The position rule of a cut after one more method: one that renumbers is enough."""
    return Positions.COMPACT if method.position_rule is Positions.COMPACT else rule


def _require_fit(method: Method, reduction: Reduction | DenseReduction, slot: Tensor, length: Tensor) -> None:
    """Refuse a reduction that the sequences cannot carry out.

    Raises:
        ReductionError: of other items than the method was shown, or with outputs in another order than their anchors.
    """
    if reduction.kept.shape != slot.shape or bool((reduction.length != length).any()):
        raise ReductionError(f"{method.slug} answered with a reduction of other items than it was shown.")
    anchor = reduction.anchor
    turned = ((anchor[:, 1:] >= 0) & (anchor[:, 1:] <= anchor[:, :-1])).any(1)
    if bool(turned.any()):
        item = int(turned.nonzero()[0, 0])
        raise ReductionError(
            f"{method.slug} answered with outputs in an order that a sequence cannot keep: the anchors of item {item} "
            f"are {anchor[item][anchor[item] >= 0].tolist()}, and tokens stand in the order of their positions. List "
            "outputs by ascending anchor (Reduction.top and Reduction.from_mask do)."
        )
