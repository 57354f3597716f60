"""Signals that ask a command to end: SIGINT (Ctrl-C), SIGTERM and SIGHUP, all in the same way.

The first raises `Interrupted` in the main thread, or ends a search cleanly where `ending_cleanly`
is in force. A second ends the process at once. A signal that was ignored when the command started,
as under nohup, stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end."""


class _State:
    """Of this process. `received`: the first signal. `last_acts`: run before it ends at once."""

    received: int | None = None
    finishing = False
    abandoned = False
    advice = "search again, what is unfinished goes on"
    last_acts: list[Callable[[], None]] = []  # noqa: RUF012


def install() -> None:
    """Handle the signals in this process from now on, unless they are ignored."""
    _State.received, _State.finishing = None, False
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def received() -> int | None:
    """Return the first signal that came, None if none has."""
    return _State.received


def exit_code() -> int:
    """Return the exit code of an interrupted command: 128 and the signal's number."""
    return 128 + (_State.received or signal.SIGINT)


def advise(words: str) -> None:
    """Note what a person is told to do if the process ends at once."""
    _State.advice = words


def advice() -> str:
    """Return what to do once the process has ended at once."""
    return _State.advice


def abandon() -> None:
    """Have the process end without Python's clean-up, which would wait for what is gone."""
    _State.abandoned = True


def finish(code: int) -> None:
    """End the process with this exit code; a signal that comes now ends it at once."""
    _State.finishing = True
    if not _State.abandoned:
        sys.exit(code)
    _leave(code)


def at_once(code: int, words: str) -> None:
    """End the process now, from any thread and whatever it is doing."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # the live table hides the cursor
        os.write(sys.stderr.fileno(), f"sabtune: {words}\n".encode(errors="replace"))
    _leave(code)


def _leave(code: int) -> None:
    for act in list(_State.last_acts):
        with contextlib.suppress(Exception):
            act()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
            stream.flush()
    os._exit(code)


@contextmanager
def last_act(act: Callable[[], None]) -> Iterator[None]:
    """Have something done even if the process ends at once meanwhile."""
    _State.last_acts.append(act)
    try:
        yield
    finally:
        _State.last_acts.remove(act)


def _handle(number: int, frame: FrameType | None) -> None:
    if _State.received is not None or _State.finishing:
        at_once(128 + number, f"ended at once by a second {signal.Signals(number).name}")
    _State.received = number
    raise Interrupted(number)


@contextmanager
def ending_cleanly(stop: Callable[[], bool]) -> Iterator[None]:
    """Have the first signal call `stop`, which says whether it could; the next are handled as
    before.

    Does nothing outside the main thread, where Python allows no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def first(number: int, frame: FrameType | None) -> None:
        if _State.received is None and stop():
            _State.received = number
            return
        outer = before[signal.Signals(number)]
        if callable(outer):
            outer(number, frame)
            return
        raise Interrupted(number)

    for number, outer in before.items():
        if outer is not signal.SIG_IGN:
            signal.signal(number, first)
    try:
        yield
    finally:
        for number, outer in before.items():
            signal.signal(number, outer)


@contextmanager
def kept() -> Iterator[None]:
    """Restore the handlers of the signals afterwards: `ray.init` installs its own for SIGTERM.

    What that handler raises is raised as `Interrupted`. SIGHUP is blocked meanwhile, and stays so
    in processes that are started: a terminal sends it to all of them when it is closed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    except SystemExit as exit_:
        if exit_.code != signal.SIGTERM:
            raise
        _State.received = signal.SIGTERM
        raise Interrupted(signal.SIGTERM) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
