"""The URLs of --notify, which are secrets: they are kept out of recorded command lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from sabtune.errors import ConfigError
from sabtune.notification import VARIABLE, Notifier, from_environment

OPTION = "--notify"

COMMANDS = ("search", "confirm", "ablate")
"""The commands that have the option."""


def hide_urls() -> None:
    """Start this process again with the URLs of --notify in its environment, if it has any.

    Other users can see the arguments of a process, and Ray records those of a driver. The
    environment is private. Nothing happens if the arguments aren't those that the process was
    started with, or if the command goes to a cluster.
    """
    arguments = sys.argv[1:]
    urls, others = split_urls(arguments)
    command = next((word for word in arguments if not word.startswith("-")), "")
    is_remote = any(word.partition("=")[0] == "--cluster" for word in arguments)
    started_with = sys.orig_argv[len(sys.orig_argv) - len(arguments) :]
    if not urls or command not in COMMANDS or is_remote or started_with != arguments:
        return
    program = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
    environment = {**os.environ, VARIABLE: " ".join(urls)}
    os.execve(sys.executable, [sys.executable, *program, *others], environment)  # noqa: S606


def split_urls(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the URLs of --notify among the arguments of a command, and the other arguments.

    If a value is no URL, so that the command refuses it, there are no URLs.
    """
    urls, others, rest = list[str](), list[str](), list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            others += [word, *rest]
            break
        if word == OPTION and rest:
            urls.append(rest.pop(0))
        elif word.startswith(f"{OPTION}="):
            urls.append(word.partition("=")[2])
        else:
            others.append(word)
    if any(len(url.split()) != 1 for url in urls):
        return [], list(arguments)
    return urls, others


def notifier_of(urls: Sequence[str] | None, *, cluster: bool = False) -> Notifier:
    """Return the notifier of the values of --notify.

    cluster: whether the command goes to a cluster, whose head then sends the notifications.

    Raises ConfigError if the option is given and the command goes to a cluster, if Apprise is
    missing, or if it refuses a URL.
    """
    urls = list(urls or ())
    if not cluster:
        return Notifier(urls, OPTION)
    if urls and urls != from_environment():
        raise ConfigError(
            f"{OPTION} doesn't go to a cluster, where others could read the URL in the job: set "
            f"{VARIABLE} in the environment in which the head starts Ray"
        )
    return Notifier(())
