"""The only code that touches a running model: it shortens what the decoder is given, and puts everything back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Self

from jaxtyping import Int
from torch import Tensor, nn

from tokenry.hosts.cost import Cost
from tokenry.hosts.host import Host
from tokenry.hosts.reducing import report
from tokenry.hosts.reducing.apply import MethodRunner
from tokenry.hosts.reducing.decoder_entry import DecoderEntry
from tokenry.hosts.reducing.entry import ModelEntry
from tokenry.hosts.reducing.hooks import Attachment, Hooks, ThreadState
from tokenry.hosts.reducing.layers import LayerEntry
from tokenry.hosts.reducing.outputs import DecoderExit
from tokenry.hosts.reducing.plan import plan_methods
from tokenry.hosts.reducing.report import LastPrompts
from tokenry.hosts.reducing.turns import Turns
from tokenry.hosts.reducing.visual import Marked
from tokenry.hosts.trace import ItemTrace
from tokenry.hosts.upstream import watch_attention
from tokenry.hosts.vision import Encoded, VisionRecorder, watch_vision
from tokenry.tokens import Method, Needs


class Session:
    """A model running on fewer visual tokens, between ``with`` and its end. Made by `tokenry.reduced`.

    A call passes through four parts in turn: `ModelEntry` opens the books on it, `DecoderEntry` shortens it on the way
    into the language model, `LayerEntry` at layers of that, and `DecoderExit` gives back the length it came with.

    Attributes:
        methods: what is applied, in order.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Method],
        *,
        encoded: Encoded | None = None,
        tokens: Marked | None = None,
        crops: Sequence[int] | None = None,
    ) -> None:
        """Check that the methods fit the model; nothing is touched yet.

        Args:
            model: a transformers model.
            methods: in the order in which they act.
            encoded: pictures encoded beforehand with `tokenry.hosts.encode_pictures`.
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
        self._runner = MethodRunner(self.host, plan_methods(self.host, self.methods, tokens is not None))
        self._turns = Turns()
        self._prompts = LastPrompts()
        self._attachment: Attachment | None = None
        self._open = ExitStack()

    # --- what a caller reads -------------------------------------------------------------------------------------

    @property
    def trace(self) -> list[ItemTrace]:
        """What happened to each picture of the last prompt, in order of appearance; empty if it had none.

        The last prompt is the calling thread's own where it has run one, else that of any thread.
        """
        return report.traces(self._prompts.require())

    @property
    def lengths(self) -> Int[Tensor, "rows layers"]:
        """Real tokens of each sequence in each decoder layer, for the last prompt."""
        return report.lengths(self._prompts.require())

    @property
    def cost(self) -> Cost:
        """What the last prompt cost, and would have cost with all its visual tokens."""
        return report.cost(self._prompts.require())

    @property
    def selection_s(self) -> float:
        """Seconds spent choosing tokens for the last prompt."""
        last = self._prompts.last
        return 0.0 if last is None else last.selection_s

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
            self._prompts = LastPrompts(self._prompts.latest)

    def __enter__(self) -> Self:
        if self._attachment is None or self._attachment.owned:
            self._attach(threading.get_ident())
        return self

    def __exit__(self, *exc: object) -> None:
        self.detach()

    def _attach(self, owner: int | None) -> None:
        state = ThreadState()
        with ExitStack() as stack:
            attachment = Attachment(self, self.host, state, owner)
            stack.callback(attachment.disclaim)
            vision = self._watch_vision(stack)
            follow = self._watch_attention(stack, state)
            stack.callback(self._turns.watch(self.host.model))
            stack.callback(attachment.release)
            prompts = LastPrompts(self._prompts.latest)
            attachment.surround(self._hooks(state, vision, prompts, follow))
            self._attachment, self._prompts, self._open = attachment, prompts, stack.pop_all()

    def _watch_vision(self, stack: ExitStack) -> VisionRecorder:
        """Record what the encoders deliver, with what methods read of them."""
        if not self.host.token_ids:
            return VisionRecorder()
        depth = self.host.depth
        needs = [m.needs(layer, depth) for layer, methods in self._runner.plan.items() for _, m in methods]
        return stack.enter_context(watch_vision(self.host, Needs.of_encoder(needs)))

    def _watch_attention(self, stack: ExitStack, state: ThreadState) -> Callable[[], None]:
        """Listen to the decoder layers whose attention methods read."""
        modules = self.host.attention_modules(self.host.layers, self._runner.listened())
        listeners = {m: self._runner.listener(i, lambda: state.under_way) for m, i in modules.items()}
        return stack.enter_context(watch_attention([self.host.text_config], listeners))

    def _hooks(
        self, state: ThreadState, vision: VisionRecorder, prompts: LastPrompts, follow: Callable[[], None]
    ) -> Hooks:
        """What happens in a call, in the order in which it happens."""
        host, turns, runner = self.host, self._turns, self._runner
        entry = ModelEntry(host, state, turns, runner.plan.keys(), self.tokens, follow)
        decoder = DecoderEntry(host, state, turns, runner, vision, encoded=self.encoded, crops=self.crops)
        layers = LayerEntry(host, state, runner, prompts)
        leaving = DecoderExit(state, turns, prompts, vision)
        return Hooks(
            entry.before_model,
            entry.before_base,
            decoder.before_decoder,
            layers.before_layer,
            leaving.after_decoder,
        )
