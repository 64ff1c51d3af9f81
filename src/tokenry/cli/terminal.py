"""Terminal output of all commands: what is written, in which characters, and how a command ends that is told to stop.

Whatever a command writes goes through `say` or `screen` (a test holds that). Texts that tokenry has not written itself
(answers, questions, names of files and models, messages of other libraries) may hold control characters that move the
cursor, rename the window or turn the direction of writing: they are made visible, not sent. What the terminal's
encoding cannot carry is written in signs that it can.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, MappingProxyType
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Span, Text

FAILED: Final = 1
"""Exit code of a command that ran and found what it was asked about to fail: nothing compared, a law that is broken."""
USER_ERROR: Final = 2
"""Exit code when the user's input was wrong, as for a wrong option."""
PIPE_CLOSED: Final = 128 + 13
"""Exit code when nobody reads the output any longer, as shells have it for SIGPIPE."""
_WIDE: Final = 240  # columns where nobody looks at a screen: as wide as a table needs
_STOPPING: Final = MappingProxyType({signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"})
_ERRORS: Final = "tokenry.spelled"

# C0 but for line breaks and tabs, DEL, C1; line separators; embeddings, overrides and isolates of direction.
_UNSEEN: Final = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_SPELLED: Final = str.maketrans(
    {"–": "-", "—": "-", "−": "-", "×": "x", "·": "-", "→": ">", "…": ".", "≤": "<", "≥": ">", "•": "*",
     "‘": "'", "’": "'", "“": "'", "”": "'", "\N{NO-BREAK SPACE}": " ", "━": "-", "─": "-", "│": "|"}
)  # fmt: skip
"""Signs of tables and sentences, each as one character that every encoding has, so that columns stay in line."""


class Stopped(KeyboardInterrupt):
    """The user or the system asked the process to stop.

    A command that has something to say about it adds a note (`knowing`); the message is written once, in the end.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


# ------------------------------------------------------------------------------------------------------------ text


def visible(text: str) -> str:
    """The text with every control character spelt out, as "\\x1b"; line breaks and tabs stay."""
    return _UNSEEN.sub(_escape, text.replace("\r\n", "\n"))


def _escape(found: re.Match[str]) -> str:
    """As JSON has it, wherever JSON may hold the character as it is: a document stays one."""
    return json.dumps(found[0])[1:-1] if found[0] > "\x1f" else found[0].encode("unicode_escape").decode()


def _visible(text: Text) -> Text:
    """The same for a text with styles."""
    ends = sorted({end for found in _UNSEEN.finditer(text.plain) for end in found.span()})
    if not ends:
        return text
    whole = text.blank_copy()
    for piece in text.divide(ends):
        if _UNSEEN.fullmatch(piece.plain):
            spelt = visible(piece.plain)
            styles = [
                *(span.style for span in piece.spans),
                "reverse",
            ]  # so that it is seen to be no such text
            piece = Text(spelt, piece.style, spans=[Span(0, len(spelt), style) for style in styles])
        whole.append_text(piece)
    return whole


def _spell(error: UnicodeError) -> tuple[str, int]:
    """What an encoding cannot carry, in signs that it can: a handler for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end].translate(_SPELLED)
    # Not question marks: a name stays one that can be told from others, and a JSON document itself.
    return "".join(json.dumps(sign)[1:-1] if sign > "~" else sign for sign in found), error.end


def speak_any_encoding() -> None:
    """Let standard output and error spell what their encoding cannot carry, instead of failing at it."""
    codecs.register_error(_ERRORS, _spell)
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors=_ERRORS)


class Screen(Console):
    """A console on which texts are texts: no markup, no emoji codes, and no control characters but its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"markup": False, "emoji": False, "highlight": False} | options))

    def render_str(self, text: str, **options: Any) -> Text:
        """A text from a string."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is written for a renderable."""
        return super().render(_visible(renderable) if isinstance(renderable, Text) else renderable, options)

    def on_broken_pipe(self) -> None:
        """Leave it to the application, as `say` does."""
        raise BrokenPipeError


def screen() -> Screen:
    """Standard output; as wide as a table needs where nobody looks at it on a screen."""
    found = Screen()
    return found if found.is_terminal else Screen(width=_WIDE)


def say(text: object = "", *, err: bool = False, end: str = "\n") -> None:
    """Write a line to standard output, or to standard error.

    Args:
        text: what is written, control characters made visible.
        err: to standard error.
        end: what follows it.
    """
    # not typer.echo, which sends UTF-8 to a terminal that says it knows ASCII only
    print(visible(str(text)), end=end, file=sys.stderr if err else sys.stdout, flush=True)


def say_error(error: Exception) -> None:
    """Write what went wrong to standard error."""
    Screen(stderr=True, soft_wrap=True).print(Text(f"error: {error}", style="bold red"))


# -------------------------------------------------------------------------------------------------------- stopping


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM raise `Stopped`, whatever else they make fail.

    Some libraries turn the exception into one of their own (an extension module that is being imported, a worker that
    is gone): then what they raise is not what happened.

    Raises:
        Stopped: the process was asked to stop.
    """
    asked: list[Stopped] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(Stopped(number))
        raise asked[-1]

    before = {number: signal.getsignal(number) for number in _STOPPING}
    # What the caller of the process has had ignored (nohup) stays so; signals are the main thread's.
    ours = [n for n, how in before.items() if how in (signal.SIG_DFL, signal.default_int_handler)]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    except Exception as error:
        if asked:
            raise asked[-1] from error
        raise
    else:
        if asked:  # somebody has swallowed it, so what was done may not be all that was to be done
            raise asked[-1]
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextmanager
def knowing(what: str) -> Iterator[None]:
    """If the block is stopped, let the message say this too: where the results are, how to go on."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        stopped.add_note(what)
        raise


def say_stopped(stopped: KeyboardInterrupt) -> int:
    """Write that the command was stopped, and what the commands know of it; the exit code, as shells have it."""
    number = stopped.number if isinstance(stopped, Stopped) else signal.SIGINT
    notes = getattr(stopped, "__notes__", [])
    say(f"\n{' '.join((_STOPPING[signal.Signals(number)] + '.', *notes))}", err=True)
    return 128 + number


def close_pipe() -> None:
    """Nobody reads the output any longer: let what is still buffered go nowhere, so that the end is quiet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
