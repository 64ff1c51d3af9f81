"""The truth that running reduced must equal: the full sequence, with dropped tokens masked out.

Nothing here shares code with `session` but what a model is asked for (`Host`, `upstream`) and how pictures come into
its embeddings (`vision.embedded`): the masks are the model's own, full-length ones with columns taken out; positions
are counted afresh; merged tokens are written over their anchors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int, Real
from torch import Tensor, nn

from tokenry.hosts.host import Host
from tokenry.hosts.trace import ItemTrace
from tokenry.hosts.upstream import (
    cache_given,
    counts_by_mask,
    named_arguments,
    take_between_layers,
    whole_sequences,
)
from tokenry.hosts.vision import embedded
from tokenry.tokens import Positions


@contextmanager
def masked(
    host: Host,
    trace: Sequence[ItemTrace],
    visual: Bool[Tensor, "b t"],
    rules: dict[int, Positions],
    padding: Bool[Tensor, "b t"] | None = None,
) -> Iterator[None]:
    """While open, the model runs on full sequences in which the tokens that `trace` dropped are masked out.

    Args:
        host: the model.
        trace: what was done to each picture, in order of appearance.
        visual: the visual columns of the prompt.
        rules: per cut (decoder layer), whether position ids were kept or renumbered.
        padding: which columns of the prompt are tokens.
    """
    with _hooked(_Oracle(host, trace, visual, rules, padding)):
        yield


@contextmanager
def cut_by_hand(
    host: Host,
    trace: Sequence[ItemTrace],
    visual: Bool[Tensor, "b t"],
    rules: dict[int, Positions],
    padding: Bool[Tensor, "b t"] | None = None,
) -> Iterator[None]:
    """While open, the decoder is given sequences without the tokens that `trace` dropped, with the positions of those
    that stayed: the truth where layers read their tokens into a state, which no mask can undo.

    Args:
        host, trace, visual, rules, padding: as for `masked`; tokens have left on the way in only.
    """
    with _hooked(_ByHand(host, trace, visual, rules, padding)):
        yield


@contextmanager
def _hooked(oracle: _Oracle) -> Iterator[None]:
    host = oracle.host
    with ExitStack() as stack:
        hook = host.decoder.register_forward_pre_hook(oracle.before_decoder, with_kwargs=True)
        stack.callback(hook.remove)
        for i, layer in enumerate(host.layers):
            hook = layer.register_forward_pre_hook(
                lambda module, args, kwargs, i=i: oracle.before_layer(i, args, kwargs), with_kwargs=True
            )
            stack.callback(hook.remove)
        yield


class _Oracle:
    def __init__(
        self,
        host: Host,
        trace: Sequence[ItemTrace],
        visual: Bool[Tensor, "b t"],
        rules: dict[int, Positions],
        padding: Bool[Tensor, "b t"] | None,
    ) -> None:
        self.host, self.visual, self.rules = host, visual, rules
        # Rows repeated for beams or samples share the picture, and the fate, of the first of them.
        copies = max(1, (1 + max((item.row for item in trace), default=0)) // len(visual))
        self.trace = [replace(item, row=item.row // copies) for item in trace if item.row % copies == 0]
        self.padding = torch.ones_like(visual) if padding is None else padding.bool()
        self.columns = self._columns()
        self.cuts = sorted({at for item in trace for at, _ in item.steps})
        self.keep = {cut: self._kept(cut) for cut in self.cuts}
        self.shift: dict[int, Real[Tensor, " b"]] = {}
        self.ids: Tensor = torch.zeros(0)
        self.prefill = True
        self.deep: dict[int, Tensor] = {}

    def _columns(self) -> list[list[int]]:
        """The columns of each item: the visual columns of its row, dealt out in order."""
        left = [row.nonzero()[:, 0].tolist() for row in self.visual]
        columns = []
        for item in self.trace:
            columns.append(left[item.row][: item.n])
            left[item.row] = left[item.row][item.n :]
        return columns

    def _kept(self, cut: int) -> Bool[Tensor, "b t"]:
        keep = torch.ones_like(self.visual)
        for item, columns in zip(self.trace, self.columns, strict=True):
            anchors = item.reduction(cut).anchor[0].tolist()
            gone = [c for i, c in enumerate(columns) if i not in anchors]
            keep[item.row, gone] = False
        return keep

    def before_decoder(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        kwargs = whole_sequences(module, named_arguments(module, args, kwargs))
        hidden = embedded(self.host, kwargs)
        kwargs = kwargs | {"input_ids": None}
        b, t, _ = hidden.shape
        self.prefill = t == self.visual.shape[1]
        copies = b // len(self.visual)
        ids = kwargs.get("position_ids")
        if ids is None and self.prefill and counts_by_mask(module):
            ids = (self.padding.cumsum(1) - 1).clamp(min=0).repeat_interleave(copies, 0)
        if ids is None:
            cache = cache_given(kwargs)
            ids = torch.arange(t, device=hidden.device)[None] + (
                0 if cache is None else cache.get_seq_length()
            )
        ids = ids[None] if ids.ndim == 2 else ids
        axes = self.host.rope_axes
        if axes > 1:
            ids = ids.expand(axes, -1, -1) if len(ids) == 1 else ids[-axes:]
        self.ids = ids.expand(-1, b, -1)
        if self.prefill:
            self._count(copies)
            hidden = self._merge(0, hidden)
            self.deep = {i: self._merge(0, f) for i, f in take_between_layers(kwargs, hidden).items()}
        first = self._ids_at(0)
        return (), kwargs | {"inputs_embeds": hidden, "position_ids": first[0] if len(first) == 1 else first}

    def before_layer(self, i: int, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if self.prefill and i in self.deep:
            hidden = hidden + self.deep[i]
        if self.prefill and i in self.cuts and i > 0:
            hidden = self._merge(i, hidden)
        new = dict(kwargs)
        done = [cut for cut in self.cuts if cut <= i]
        if done:
            new["attention_mask"] = self._mask(kwargs.get("attention_mask"), self.keep[done[-1]], hidden)
            if (
                any(c > 0 and self.rules[c] is Positions.COMPACT for c in done)
                and kwargs.get("position_embeddings") is not None  # some layers do not rotate
            ):
                new["position_embeddings"] = self.host.rotate(i, hidden, self._ids_at(i))
        if args:
            return (hidden, *args[1:]), new
        return args, new | {"hidden_states": hidden}

    def _mask(self, mask: Tensor | None, keep: Bool[Tensor, "b t"], hidden: Tensor) -> Tensor:
        """The model's own mask with the dropped columns taken out."""
        b, q = hidden.shape[-3:-1]
        keep = keep.repeat_interleave(b // len(keep), 0)
        total = keep.shape[1] if self.prefill else self._seen
        keep = torch.nn.functional.pad(keep, (0, total - keep.shape[1]), value=True)
        if mask is None:
            mask = torch.ones(b, 1, q, total, dtype=torch.bool, device=hidden.device).tril(total - q)
        keep = keep[:, -mask.shape[-1] :]
        # A dropped token may go on looking at itself: nobody looks at it, and an empty softmax row is not a number.
        itself = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)[-q:]
        visible = keep[:, None, None, :] | itself
        if mask.dtype == torch.bool:
            return mask & visible
        return mask.masked_fill(~visible, torch.finfo(mask.dtype).min)

    @property
    def _seen(self) -> int:
        return self.visual.shape[1] + self._decoded

    _decoded = 0

    def _count(self, copies: int) -> None:
        """How far ids of later tokens are lowered, per cut: what renumbering took from the last id in use."""
        self._prompt = self.ids
        lowered = torch.zeros(self.ids.shape[1], dtype=torch.long, device=self.ids.device)
        self._at: dict[int, Tensor] = {-1: self.ids}
        before = -1
        for cut in self.cuts:
            self._at[cut] = self._at[before]
            if self.rules[cut] is Positions.COMPACT:
                keep = (self.keep[cut] & self.padding).repeat_interleave(copies, 0)
                self._at[cut] = self._renumber(keep)
                lowered = self.ids.amax((0, 2)) - self._at[cut].masked_fill(~keep, -1).amax((0, 2))
            self.shift[cut] = lowered
            before = cut

    def _renumber(self, keep: Bool[Tensor, "b t"]) -> Tensor:
        if len(self.ids) == 1:
            return (keep.cumsum(1) - 1).clamp(min=0)[None]
        out = self.ids.clone()
        copies = len(keep) // len(self.visual)
        visual, real = (m.repeat_interleave(copies, 0) for m in (self.visual, self.padding))
        for b in range(len(keep)):  # token by token, as a person would count
            if bool((self.ids[:, b] == self.ids[0, b]).all()):  # all axes say the same: plain positions
                out[:, b] = (keep[b].cumsum(0) - 1).clamp(min=0)
                continue
            shift, top, was_text = 0, -1, False
            for c in keep[b].nonzero()[:, 0].tolist():
                is_text = not bool(visual[b, c])
                if is_text and not was_text:
                    # What the model itself leaves free after a picture stays free.
                    seen = self.ids[:, b, :c][:, real[b, :c]]
                    free = max(0, int(self.ids[0, b, c]) - int(seen.max()) - 1) if seen.numel() else 0
                    shift = max(shift, int(self.ids[0, b, c]) - free - top - 1)
                was_text = is_text
                out[:, b, c] = self.ids[:, b, c] - shift
                top = int(out[:, b, c].max()) if is_text else max(top, int(out[:, b, c].max()))
        return out

    def _ids_at(self, layer: int) -> Tensor:
        done = [cut for cut in self.cuts if cut <= layer]
        if self.prefill:
            self._decoded = 0
            return self._at[done[-1] if done else -1]
        if layer == 0:
            self._decoded += self.ids.shape[2]
        return self.ids - self.shift[done[-1]][None, :, None] if done else self.ids

    def _merge(self, cut: int, hidden: Tensor) -> Tensor:
        """Write what was merged at a cut over its anchors."""
        hidden = hidden.clone()
        copies = len(hidden) // len(self.visual)
        for item, columns in zip(self.trace, self.columns, strict=True):
            alive = columns
            for at, step in item.steps:
                places = [alive[a] for a in step.anchor[0].tolist()]
                if at == cut:
                    weights = step.to_dense()[0].to(hidden)
                    for row in range(item.row * copies, (item.row + 1) * copies):
                        hidden[row, places] = (weights @ hidden[row, alive]).to(hidden)
                alive = places
        return hidden


class _ByHand(_Oracle):
    """Sequences without the dropped tokens, padded on the left; their masks and caches are the model's own."""

    held: Int[Tensor, "b k"]

    def before_decoder(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        _, kwargs = super().before_decoder(module, args, kwargs)
        hidden = kwargs["inputs_embeds"]
        b, t, _ = hidden.shape
        if not self.prefill:
            # A model counts from its cache, which is short here: go on after the last id of the full prompt.
            after = self._prompt.amax((0, 2)) + 1 - (self.shift[0] if self.cuts else 0)
            ids = (after[:, None] + self._decoded - t + torch.arange(t, device=hidden.device)).expand(
                len(self.ids), b, t
            )
            self.held = torch.cat([self.held, torch.ones_like(ids[0])], 1)
            return (), kwargs | {
                "position_ids": ids[0] if len(ids) == 1 else ids,
                "attention_mask": self.held,
            }
        keep = (self.keep[0] if self.cuts else torch.ones_like(self.padding)) & self.padding
        rows = [row.nonzero()[:, 0] for row in keep.repeat_interleave(b // len(keep), 0)]
        width = max(map(len, rows))
        left = [torch.nn.functional.pad(row, (width - len(row), 0), value=-1) for row in rows]
        index = torch.stack(left)
        self.held = (index >= 0).long()

        def cut(x: Tensor) -> Tensor:
            return torch.stack([part[i.clamp(min=0)] for part, i in zip(x, index, strict=True)])

        ids = torch.stack([cut(axis) for axis in self._ids_at(0)])
        short = {
            name: cut(value) if isinstance(value, Tensor) and tuple(value.shape[:2]) == (b, t) else value
            for name, value in kwargs.items()
        }
        self.deep = {i: cut(features) for i, features in self.deep.items()}
        short["inputs_embeds"] = cut(hidden).masked_fill(index[..., None] < 0, 0)
        short["position_ids"] = ids[0] if len(ids) == 1 else ids
        return (), short | {"attention_mask": self.held}

    def before_layer(self, i: int, args: Any, kwargs: dict[str, Any]) -> Any:
        if not self.prefill or i not in self.deep:
            return None
        hidden = (args[0] if args else kwargs["hidden_states"]) + self.deep[i]
        return ((hidden, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": hidden})
