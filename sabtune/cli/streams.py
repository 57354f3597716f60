"""Standard streams that never end a command: any encoding, closed, full, or a terminal gone."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO


class Stream(io.TextIOWrapper):
    """Replaces what its encoding lacks, and drops what can't be written; `problem` says why."""

    problem: OSError | None = None

    def write(self, text: str, /) -> int:
        """Write as any stream does. Raises BrokenPipeError if nobody reads any more."""
        try:
            return super().write(text)
        except BrokenPipeError:
            self._drop()
            raise
        except OSError as problem:
            self.problem = problem
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Write out what is buffered. Raises BrokenPipeError if nobody reads any more."""
        try:
            super().flush()
        except BrokenPipeError:
            self._drop()
            raise
        except OSError as problem:
            self.problem = problem
            self._drop()

    def _drop(self) -> None:
        """Lead what is still buffered, and all that follows, nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def install() -> None:
    """Replace stdout and stderr of this process.

    stderr gets a file descriptor of its own, so that what libraries write to descriptor 2 can be
    led elsewhere while Python's messages are shown.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    if _is_own(sys.stdout, 1):
        sys.stdout = _stream(sys.stdout, 1)
    if _is_own(sys.stderr, 2):
        sys.stderr = _stream(sys.stderr, os.dup(2))


def _is_own(stream: TextIO | None, descriptor: int) -> bool:
    """Whether a stream is the process's own, and not one that a caller has put in its place."""
    try:
        return stream is None or stream.fileno() == descriptor
    except (OSError, ValueError):
        return False


def _stream(of: TextIO | None, descriptor: int) -> Stream:
    if of is not None:
        with contextlib.suppress(OSError, ValueError):
            of.flush()
    buffer = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
    return Stream(
        buffer,
        encoding=of.encoding if of is not None else "utf-8",
        errors="replace",
        line_buffering=True,
        write_through=bool(getattr(of, "write_through", False)),
    )
