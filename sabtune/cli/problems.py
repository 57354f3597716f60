"""The one-line messages of errors that end a command, with their remedies."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback

from sabtune import __version__
from sabtune.cli.notifying import split_urls
from sabtune.data.place import VARIABLE as DATA_VARIABLE
from sabtune.errors import SabtuneError
from sabtune.notification import from_environment
from sabtune.redaction import HIDDEN, redact
from sabtune.storage.store import FILES_VARIABLE, TRACKING_VARIABLE

MEMORY_REMEDY = "lower hidden, batch_size, the task's length or the ladder's lengths"

VARIABLES = (FILES_VARIABLE, TRACKING_VARIABLE, DATA_VARIABLE)

PATH_REMEDIES = {
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EACCES: "give a path that you have permission to use",
    errno.EPERM: "give a path that you have permission to use",
    errno.ENOENT: "give a path that exists",
    errno.ENOTDIR: "give a folder",
    errno.EISDIR: "give a file",
    errno.EEXIST: "give another path",
    errno.ELOOP: "give a path without a loop of links",
    errno.EROFS: "give a path on a writable file system",
    errno.ENOSPC: "make room on its disk, or give another path",
    errno.EDQUOT: "make room on its disk, or give another path",
    errno.EIO: "check its disk",
    errno.EMFILE: "raise the number of open files with ulimit -n",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs",
    errno.EAGAIN: "raise the number of processes with ulimit -u",
}
"""The remedies of operating system errors that you can correct, by error number."""


def explained(problem: BaseException) -> str | None:
    """Return a one-line message for an error that you can correct; None for a bug."""
    words = one_line(problem)
    if isinstance(problem, SabtuneError):
        return words
    if out_of_memory(problem):
        return f"out of memory ({words}): {MEMORY_REMEDY}, or use a larger machine"
    if isinstance(problem, RuntimeError) and "home directory" in words:
        given = [*sys.argv[1:], *(os.environ.get(name, "") for name in VARIABLES)]
        named = [word for word in given if word.startswith("~")] or ["a path with ~"]
        return f"{', '.join(named)} names no user's home directory: give the path in full"
    if isinstance(problem, OSError) and problem.errno in PATH_REMEDIES:
        place = f" {problem.filename}" if problem.filename else ""
        return f"{problem.strerror}:{shortened(place)}: {PATH_REMEDIES[problem.errno]}"
    if isinstance(problem, OverflowError) or words.startswith("Overflow when unpacking"):
        return f"a number is too large ({words}): give a smaller one"
    if isinstance(problem, RecursionError):
        return f"the input is nested too deeply ({words}): make it flatter"
    if isinstance(problem, UnicodeError):
        return f"a text can't be read or written as UTF-8 ({words}): save it as UTF-8"
    return None


def out_of_memory(problem: BaseException) -> bool:
    """Return whether the machine or a GPU ran out of memory."""
    if isinstance(problem, MemoryError):
        return True
    words = str(problem)
    messages = (
        "not enough memory",
        "out of memory",
        "DefaultCPUAllocator",
        "Storage size calculation overflowed",
    )
    return isinstance(problem, RuntimeError) and any(message in words for message in messages)


def unexpected(problem: BaseException) -> str:
    """Return a one-line message for a bug, and save its traceback in a file."""
    words = f"{type(problem).__name__}: {one_line(problem)}"
    text = "".join(traceback.format_exception(problem))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="sabtune-error-", suffix=".txt", delete=False, errors="replace"
        ) as file:
            file.write(f"sabtune {__version__}\n{redacted(text)}")
    except OSError as failure:
        return f"{words} (a bug; its traceback can't be saved: {failure.strerror})\n{text}"
    return f"{words} (a bug: please report it with {file.name}, which has the traceback)"


def one_line(problem: BaseException) -> str:
    """Return the message on one line, without passwords, and shortened if it is long."""
    words = redacted(" ".join(str(problem).split()))
    return (
        words if isinstance(problem, SabtuneError) else shortened(words) or type(problem).__name__
    )


def shortened(text: str, most: int = 300) -> str:
    """Return the text, with its middle replaced by … if it has more than `most` characters."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def redacted(text: str) -> str:
    """Return the text without secrets from the arguments and environment of the command.

    These are passwords in addresses, and whole URLs of --notify.
    """
    for url in (*split_urls(sys.argv[1:])[0], *from_environment()):
        text = text.replace(url, HIDDEN)
    words = [word.partition("=")[2] if word.startswith("--") else word for word in sys.argv[1:]]
    return redact(text, *words, *(os.environ.get(name) for name in VARIABLES))
