"""Standard streams that tolerate a closed descriptor, a full disk and a limited encoding."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO


class Stream(io.TextIOWrapper):
    """A text stream that replaces characters it can't encode and drops text it can't write.

    problem: The error that made the stream drop text. None: all text was written.
    """

    problem: OSError | None = None

    def write(self, text: str, /) -> int:
        """Write text. Raises BrokenPipeError if the reader has closed the pipe."""
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
        """Flush the buffer. Raises BrokenPipeError if the reader has closed the pipe."""
        try:
            super().flush()
        except BrokenPipeError:
            self._drop()
            raise
        except OSError as problem:
            self.problem = problem
            self._drop()

    def _drop(self) -> None:
        """Redirect buffered and all later text to the null device."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def install() -> None:
    """Replace stdout and stderr of this process with streams of class `Stream`.

    stderr gets a file descriptor of its own. Text that libraries write to descriptor 2 can be
    redirected while Python's messages are still shown.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # uses the lowest free number, which is this one
    if _is_own(sys.stdout, 1):
        sys.stdout = _stream(sys.stdout, 1)
    if _is_own(sys.stderr, 2):
        sys.stderr = _stream(sys.stderr, os.dup(2))


def _is_own(stream: TextIO | None, descriptor: int) -> bool:
    """Return whether the stream belongs to the process and was not replaced by a caller."""
    try:
        return stream is None or stream.fileno() == descriptor
    except (OSError, ValueError):
        return False


def _stream(replaced: TextIO | None, descriptor: int) -> Stream:
    if replaced is not None:
        with contextlib.suppress(OSError, ValueError):
            replaced.flush()
    buffer = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
    return Stream(
        buffer,
        encoding=replaced.encoding if replaced is not None else "utf-8",
        errors="replace",
        line_buffering=True,
        write_through=bool(getattr(replaced, "write_through", False)),
    )
