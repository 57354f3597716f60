"""Handling of the signals that end a command: SIGINT (Ctrl-C), SIGTERM and SIGHUP.

All three are handled alike. The first signal raises `Interrupted` in the main thread. Within
`ending_cleanly`, the first signal stops the search cleanly instead. A second signal ends the
process at once. A signal that was ignored when the command started, as with nohup, stays ignored.
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
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The exception that a signal raises to end the command."""


class _State:
    """The state of signal handling in this process.

    received: the number of the first signal, or None. finishing: whether `finish` was called.
    abandoned: whether `finish` skips Python's cleanup. advice: the advice that is printed if the
    process ends at once. displays: functions that end what is drawn on the terminal. last_acts:
    functions that are called before the process ends at once.
    """

    received: int | None = None
    finishing = False
    abandoned = False
    advice = "run the search again to resume unfinished trials"
    displays: list[Callable[[], None]] = []  # noqa: RUF012
    last_acts: list[Callable[[], None]] = []  # noqa: RUF012


def install() -> None:
    """Handle the signals in this process from now on, unless they are ignored."""
    forget()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def forget() -> None:
    """Forget the signals so far, so that another search of this process can be interrupted."""
    _State.received, _State.finishing, _State.abandoned = None, False, False


def received() -> int | None:
    """Return the first signal that was received, or None."""
    return _State.received


def exit_code() -> int:
    """Return the exit code of an interrupted command: 128 plus the signal's number."""
    return 128 + (_State.received or signal.SIGINT)


def advise(words: str) -> None:
    """Set the advice that is printed if the process ends at once."""
    _State.advice = words


def advice() -> str:
    """Return the advice to print if the process ends at once."""
    return _State.advice


def abandon() -> None:
    """Make `finish` skip Python's cleanup, which would wait for processes that are gone."""
    _State.abandoned = True


def finish(code: int) -> NoReturn:
    """End the process with an exit code. A signal during its cleanup ends it at once."""
    _State.finishing = True
    if not _State.abandoned:
        sys.exit(code)
    _leave(code)


def at_once(code: int, words: str) -> NoReturn:
    """Print `words` to stderr and end the process now, from any thread."""
    for end in list(_State.displays):
        with contextlib.suppress(Exception):
            end()
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout.isatty():
            # A live table hides the cursor, which is at its start, and has turned off wrapping.
            os.write(sys.stdout.fileno(), b"\r\x1b[J\x1b[?7h\x1b[?25h")
        os.write(sys.stderr.fileno(), f"sabtune: {words}\n".encode(errors="replace"))
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Call the last acts, flush the streams, and end the process without cleanup.

    A last act may end Ray, whereupon another thread raises an exception in this one.
    """
    try:
        for act in list(_State.last_acts):
            with contextlib.suppress(Exception):
                act()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
                stream.flush()
    finally:
        os._exit(code)


@contextmanager
def drawing(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` before the process prints its last line, if it ends at once in this context."""
    _State.displays.append(end)
    try:
        yield
    finally:
        _State.displays.remove(end)


@contextmanager
def last_act(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` if the process ends at once within this context."""
    _State.last_acts.append(act)
    try:
        yield
    finally:
        _State.last_acts.remove(act)


def _handle(number: int, frame: FrameType | None) -> NoReturn:
    if _State.received is not None or _State.finishing:
        at_once(128 + number, f"ended at once by a second {signal.Signals(number).name}")
    _State.received = number
    raise Interrupted(number)


@contextmanager
def ending_cleanly(stop: Callable[[], bool]) -> Iterator[None]:
    """Call `stop` on the first signal.

    stop: begins to stop the search, and returns whether it could. If it returns False, the previous
    handler of the signal runs instead. Later signals also run their previous handlers.

    Outside the main thread, where Python does not allow signal handlers, this context does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}

    def handle_first(number: int, frame: FrameType | None) -> None:
        if _State.received is None and stop():
            _State.received = number
            return
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
            return
        raise Interrupted(number)

    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle_first)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def kept() -> Iterator[None]:
    """Restore the signal handlers at the end of a context that starts or joins Ray.

    `ray.init` installs its own handler for SIGTERM, which raises SystemExit. This context converts
    that into `Interrupted`. It also blocks SIGHUP, which a closing terminal sends to all processes.
    Processes that are started within the context inherit the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    except SystemExit as problem:
        if problem.code != signal.SIGTERM:
            raise
        _State.received = signal.SIGTERM
        raise Interrupted(signal.SIGTERM) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
