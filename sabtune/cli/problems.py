"""What a command says of a problem that ends it: one line, with what to do about it."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback

from sabtune import __version__
from sabtune.cli.options import FILES_VARIABLE, TRACKING_VARIABLE
from sabtune.data.place import VARIABLE as DATA_VARIABLE
from sabtune.errors import SabtuneError
from sabtune.redaction import redact

SIZES = "lower hidden, batch_size, the task's length or the ladder's lengths"

VARIABLES = (FILES_VARIABLE, TRACKING_VARIABLE, DATA_VARIABLE)

PATHS = {
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EACCES: "give a path that you may use",
    errno.EPERM: "give a path that you may use",
    errno.ENOENT: "give a path that exists",
    errno.ENOTDIR: "give a folder",
    errno.EISDIR: "give a file",
    errno.EEXIST: "give another path",
    errno.ELOOP: "give a path whose links lead somewhere",
    errno.EROFS: "give a path that can be written",
    errno.ENOSPC: "make room on its disk, or give another path",
    errno.EDQUOT: "make room on its disk, or give another path",
    errno.EIO: "check its disk",
    errno.EMFILE: "raise the number of open files with ulimit -n",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs",
    errno.EAGAIN: "raise the number of processes with ulimit -u",
}
"""The remedy for each problem of the operating system that a person can mend."""


def explained(problem: BaseException) -> str | None:
    """Return one line on a problem that a person can mend; None for any other, which is a bug."""
    words = one_line(problem)
    if isinstance(problem, SabtuneError):
        return words
    if out_of_memory(problem):
        return f"out of memory ({words}): {SIZES}, or use a larger machine"
    if isinstance(problem, RuntimeError) and "home directory" in words:
        given = [*sys.argv[1:], *(os.environ.get(name, "") for name in VARIABLES)]
        named = [word for word in given if word.startswith("~")] or ["a path with ~"]
        return f"{', '.join(named)} leads to no user's home: give the path in full"
    if isinstance(problem, OSError) and problem.errno in PATHS:
        place = f" {problem.filename}" if problem.filename else ""
        return f"{problem.strerror}:{shortened(place)}: {PATHS[problem.errno]}"
    if isinstance(problem, OverflowError) or words.startswith("Overflow when unpacking"):
        return f"a number is too large ({words}): give a smaller one"
    if isinstance(problem, RecursionError):
        return f"something is nested too deeply ({words}): make it flatter"
    if isinstance(problem, UnicodeError):
        return f"a text isn't UTF-8, or can't be written so ({words}): write it as UTF-8"
    return None


def out_of_memory(problem: BaseException) -> bool:
    """Return whether something was larger than the memory of the machine or of a GPU."""
    if isinstance(problem, MemoryError):
        return True
    words = str(problem)
    known = (
        "not enough memory",
        "out of memory",
        "DefaultCPUAllocator",
        "Storage size calculation overflowed",
    )
    return isinstance(problem, RuntimeError) and any(word in words for word in known)


def unexpected(problem: BaseException) -> str:
    """Return one line on a bug; its traceback is kept in a file."""
    words = f"{type(problem).__name__}: {one_line(problem)}"
    text = "".join(traceback.format_exception(problem))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="sabtune-error-", suffix=".txt", delete=False, errors="replace"
        ) as file:
            file.write(f"sabtune {__version__}\n{redacted(text)}")
    except OSError as failure:
        return f"{words} (a bug; its traceback can't be kept: {failure.strerror})\n{text}"
    return f"{words} (a bug: please report it with {file.name}, which says where it came from)"


def one_line(problem: BaseException) -> str:
    """Return the message without line breaks or passwords, and of a readable length."""
    words = redacted(" ".join(str(problem).split()))
    return (
        words if isinstance(problem, SabtuneError) else shortened(words) or type(problem).__name__
    )


def shortened(words: str, most: int = 300) -> str:
    """Return the words, their middle left out if there are too many."""
    return words if len(words) <= most else f"{words[: most // 2]} … {words[-most // 2 :]}"


def redacted(text: str) -> str:
    """Return the text without the passwords that the command was given."""
    words = [word.partition("=")[2] if word.startswith("--") else word for word in sys.argv[1:]]
    return redact(text, *words, *(os.environ.get(name) for name in VARIABLES))
