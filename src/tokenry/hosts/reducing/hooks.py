"""A session's hold on a model: what stands around the forwards of its parts, and who may call them meanwhile."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.hosts.host import Host
from tokenry.hosts.patches import put, set_aside
from tokenry.hosts.reducing.call import DecoderCall
from tokenry.hosts.wrappers import COMPILED_CALL, uncompiled, unwrap
from tokenry.tokens import TokenryError, UnsupportedError

Before = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]
"""As torch's forward pre-hooks with keyword arguments: other arguments, or None to leave them."""

After = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]
"""As torch's forward hooks with keyword arguments: another output, or None to leave it."""

_ATTACHED: WeakKeyDictionary[PreTrainedModel, ReferenceType[Attachment]] = WeakKeyDictionary()
_REGISTRY = threading.Lock()


class ThreadState(threading.local):
    """What one thread's call leaves from one part of the model to the next; every thread has its own.

    Attributes:
        call: the call of the decoder that is under way, or was the last.
        labels: a copy of the call's labels, in which those of dropped tokens will be ignored.
        tail: how many of the last positions the model looks at; 0 = all.
        layers: decoder layers that this call has reached.
        plain: how many have asked that this thread's calls run as without a session.
    """

    def __init__(self) -> None:
        self.call: DecoderCall | None = None
        self.labels: Tensor | None = None
        self.tail = 0
        self.layers: set[int] = set()
        self.plain = 0

    @property
    def under_way(self) -> DecoderCall | None:
        """The call of the decoder whose tokens may be chosen in this thread."""
        return None if self.plain else self.call

    def forget(self) -> None:
        """Drop what was for the call alone; a cache that it was at work on is nobody's again."""
        if self.call is not None:
            self.call.ledger.in_call = False
        self.call, self.labels, self.tail = None, None, 0
        self.layers.clear()


@dataclass(frozen=True)
class Hooks:
    """What a session does, in the order in which it happens in a call."""

    before_model: Before
    before_base: Before
    before_decoder: Before
    before_layer: Callable[[int, nn.Module, tuple[Any, ...], dict[str, Any]], Any]
    after_decoder: After


@contextmanager
def paused(model: Any) -> Iterator[None]:
    """Run a model as it is in this thread, also while a session is attached to it."""
    held = _ATTACHED.get(unwrap(model))
    attachment = None if held is None else held()
    if attachment is None:
        yield
    else:
        with attachment.passing():
            yield


class Attachment:
    """Functions of a session around the forwards of a model, from `surround` to `release`.

    They stand in the place of each part's `forward`, not beside it as hooks of torch do. So they also act where
    somebody calls `forward` itself, and compiled code is made anew for them: Dynamo skips guards on hooks, but a
    `forward` that comes or goes is noticed. The model, its base and its decoder run uncompiled meanwhile.

    Calls of several threads may be under way at once, each with its own state, unless the attachment has an owner.
    """

    def __init__(self, session: object, host: Host, state: ThreadState, owner: int | None) -> None:
        """Claim a model; nothing is done to it yet.

        Args:
            session: what is attached; it lives for as long as its functions stand, whether or not the user keeps it.
            host: the model.
            state: the state of calls.
            owner: the one thread that may call the model meanwhile; None = all may.

        Raises:
            TokenryError: a session is attached to the model already.
        """
        self._session, self._host, self._state, self._owner = session, host, state, owner
        self._open, self._closing = False, False
        self._inside: dict[int, int] = {}
        self._change = threading.Condition()
        self._stack = ExitStack()
        with _REGISTRY:
            if host.model in _ATTACHED:
                raise TokenryError(
                    "This model already runs reduced. Leave that `with` block (or detach that session) first, or "
                    "combine the methods in one: tk.reduced(model, [first, second])."
                )
            _ATTACHED[host.model] = ref(self)

    @property
    def owned(self) -> bool:
        """Whether one thread alone may call the model."""
        return self._owner is not None

    def disclaim(self) -> None:
        """Let the model be claimed by others."""
        _ATTACHED.pop(self._host.model, None)

    def surround(self, hooks: Hooks) -> None:
        """Put functions around the parts of the model."""
        host = self._host
        with ExitStack() as stack:
            # From the inside out: a call that meets the outermost part finds all others in place.
            for i, layer in enumerate(host.layers):
                self._around(stack, layer, self._layer(i, hooks.before_layer))
            self._around(stack, host.decoder, self._decoder(hooks), compiled=False)
            self._around(stack, host.base, self._entry(hooks.before_base, "language model"), compiled=False)
            # Where the model itself encodes pictures, it is its own base: both functions stand around it then.
            self._around(stack, host.model, self._entry(hooks.before_model, "base model"), compiled=False)
            for outer in host.compiled:
                stack.callback(put(outer, "forward", partial(uncompiled(outer.forward))))
            self._open = True
            self._stack = stack.pop_all()

    def require_outside(self) -> None:
        """Refuse to end where this thread is inside a call of the model, whose other half would be missing.

        Raises:
            TokenryError: it is.
        """
        if threading.get_ident() in self._inside:
            raise TokenryError(
                "A session cannot be detached from within a call of its model; wait for its end."
            )

    def release(self) -> None:
        """Take everything away again, once the calls of other threads that are under way have ended."""
        with self._change:
            self._closing = True
            self._change.wait_for(lambda: not self._inside)
            self._open = False
        self._stack.close()

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Let this thread's calls run as without a session."""
        self._state.plain += 1
        try:
            yield
        finally:
            self._state.plain -= 1

    # --- the functions around the parts --------------------------------------------------------------------------

    def _around(
        self,
        stack: ExitStack,
        module: nn.Module,
        act: Callable[[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any],
        *,
        compiled: bool = True,
    ) -> None:
        """Put a function around a module's forward, which runs compiled, if it was, or as it was written."""
        given = module.forward
        inner = given if compiled else uncompiled(given)

        @functools.wraps(inner)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not self._open or self._state.plain:
                return given(*args, **kwargs)
            return act(module, inner, args, kwargs)

        reason = (
            "a model with a tokenry session runs uncompiled around its decoder layers; leave fullgraph off"
        )
        around = forward if compiled else torch.compiler.disable(forward, reason=reason)
        stack.callback(set_aside(module, COMPILED_CALL))
        stack.callback(put(module, "forward", around))

    def _entry(self, before: Before, part: str) -> Callable[..., Any]:
        """Around a module where a call may begin; `part` is what the call must reach from there."""

        def act(module: nn.Module, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            with self._counted() as counted:
                if not counted:
                    return inner(*args, **kwargs)
                args, kwargs = before(module, args, kwargs) or (args, kwargs)
                output = inner(*args, **kwargs)
                call = self._state.call
                if call is None or not call.segments:
                    raise self._passed_by(f"its {part} was")
                return output

        return act

    def _decoder(self, hooks: Hooks) -> Callable[..., Any]:
        def act(module: nn.Module, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            if threading.get_ident() not in self._inside:
                self._refuse_others()
                self._state.forget()
            args, kwargs = hooks.before_decoder(module, args, kwargs) or (args, kwargs)
            output = inner(*args, **kwargs)
            self._require_layers(module)
            changed = hooks.after_decoder(module, args, kwargs, output)
            return output if changed is None else changed

        return act

    def _layer(self, i: int, before: Callable[..., Any]) -> Callable[..., Any]:
        def act(module: nn.Module, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            self._state.layers.add(i)
            args, kwargs = before(i, module, args, kwargs) or (args, kwargs)
            return inner(*args, **kwargs)

        return act

    # --- who is calling ------------------------------------------------------------------------------------------

    @contextmanager
    def _counted(self) -> Iterator[bool]:
        """A call of this thread, counted while it lasts; False for one that comes while the session is closing."""
        self._refuse_others()
        me = threading.get_ident()
        with self._change:
            outermost = me not in self._inside
            late = outermost and self._closing
            if not late:
                self._inside[me] = self._inside.get(me, 0) + 1
        if late:
            with self.passing():
                yield False
            return
        if outermost:
            self._state.forget()
        try:
            yield True
        except BaseException:
            self._state.forget()
            raise
        finally:
            with self._change:
                self._inside[me] -= 1
                if not self._inside[me]:
                    del self._inside[me]
                    self._change.notify_all()

    def _refuse_others(self) -> None:
        if self._owner not in (None, threading.get_ident()):
            raise TokenryError(
                f"{self._host.name} is busy: it runs reduced in a `with` block of another thread, and this call is no "
                "part of that block. Call it after the block, or attach the session for all threads: run = "
                "tk.reduced(...).attach(), and run.detach() at the end."
            )

    def _require_layers(self, decoder: nn.Module) -> None:
        """Notice layers that ran without the session: their tokens were not what it takes them to be."""
        # Asked anew each time: drafts of assisted generation may end at an earlier layer.
        count = min(len(self._host.layers), self._host.text_config.num_hidden_layers)
        missing = sorted(set(range(count)) - self._state.layers)
        if missing and not (decoder.training and getattr(decoder, "layerdrop", False)):
            raise self._passed_by(f"layers {', '.join(map(str, missing))} of its decoder were")

    def _passed_by(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"This call of {self._host.name} went past the session: {what} not reached, as happens where parts of a "
            "model are compiled or replaced inside the block, so tokens did not leave as planned. Make such changes "
            "before the session."
        )
