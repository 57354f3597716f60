"""Notifications of the end of a search, a confirmation or an ablation.

This module imports no slow library, so that a command can check its URLs before anything else.

Apprise (https://github.com/caronc/apprise) sends them. The URL of a service is a secret: no message
of this module contains it, and what Apprise logs is discarded.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sabtune import interrupts
from sabtune.errors import ConfigError, SabtuneError
from sabtune.redaction import HIDDEN, redact
from sabtune.storage.store import Store
from sabtune.wording import counted

if TYPE_CHECKING:
    from sabtune.study.record import StudyRecord
    from sabtune.tuning.run import Ending

VARIABLE = "SABTUNE_NOTIFY"
"""The environment variable with the URLs to notify, separated by spaces."""

SEND_SECONDS = 10.0
"""The maximum time that the end of a command waits until its notifications are sent."""

MAX_CHARACTERS = 2000
"""The maximum length of a notification. Some services refuse longer ones."""

MAX_ERROR_CHARACTERS = 500
"""The maximum length of an error in a notification."""

SCHEME = re.compile(r"([a-z][a-z0-9.+-]{0,19})://", re.IGNORECASE)
"""The scheme of a URL, the only part of it that messages show."""

log = logging.getLogger("apprise")


def from_environment() -> list[str]:
    """Return the URLs to notify from the environment."""
    return os.environ.get(VARIABLE, "").split()


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service that is notified.

    name: its name in messages, which doesn't contain its URL. send: sends a title and a text, and
    returns whether the service took it.
    """

    name: str
    send: Callable[[str, str], bool]


class Notifier:
    """The services to notify at the end of a command.

    urls: the URLs of the services, as Apprise defines them. option: the option or the parameter
    that they come from, for messages.

    Raises ConfigError, without the URL, if Apprise isn't installed or doesn't know a URL.
    """

    def __init__(self, urls: Sequence[str], option: str = "--notify"):
        self.urls = [url for url in urls if url]
        self.services = [
            _service(url, f"{option} {number}" if len(self.urls) > 1 else option)
            for number, url in enumerate(self.urls, start=1)
        ]
        self._pending: dict[str, threading.Thread] = {}
        self._results: dict[str, bool] = {}
        self._sent_at = 0.0

    def ended(self, name: str, store: Store, ending: Ending, ui: str) -> None:
        """Start to notify of the end of a search, unless it was interrupted.

        Call this method when everything else is saved, and then `finish`. name: the name of the
        study. ui: what opens the study's page, if no MLflow server has it.
        """
        interrupted = not (ending.complete or ending.out_of_budget or ending.lost)
        if not self.services or interrupted:
            return
        from sabtune.study.record import StudyRecord
        from sabtune.study.summary import total_failure

        try:
            study = StudyRecord.open(store, name)
            failure = total_failure(study)
            self._send(f"{name}: {_event(ending, failure)}", _body(study, ending, failure, ui))
        except SabtuneError as problem:
            self._send(f"{name}: {_event(ending, '')}", self._shown(problem))

    def send(self, title: str, text: str) -> str:
        """Send a notification, and return which could not be sent and why, or "".

        Use it for the end of several searches.
        """
        if not self.services:
            return ""
        self._send(title, text)
        return self.finish()

    @contextmanager
    def failures(self, name: str, say: Callable[[str], None]) -> Iterator[None]:
        """Notify of an exception that ends the block, and wait until that is sent.

        Interruptions are no failures. name: the name of the study. say: called with a line if the
        notification can't be sent.
        """
        try:
            yield
        except Exception as problem:
            if self.services and interrupts.received() is None:
                self._send(f"{name}: failed", self._shown(problem))
                unsent = self.finish()
                if unsent:
                    say(unsent)
            raise

    def finish(self) -> str:
        """Wait until the notifications are sent. Return which could not be sent and why, or ""."""
        until = self._sent_at + SEND_SECONDS
        for thread in self._pending.values():
            thread.join(max(0.0, until - time.monotonic()))
        late = [name for name, thread in self._pending.items() if thread.is_alive()]
        refused = [
            name for name in self._pending if not self._results.get(name) and name not in late
        ]
        self._pending = {}
        problems = [f"{', '.join(late)} didn't answer within {SEND_SECONDS:g} s"] * bool(late)
        problems += [f"{', '.join(refused)} couldn't be reached or refused it"] * bool(refused)
        return f"The notification was not sent: {'; '.join(problems)}" if problems else ""

    def _send(self, title: str, text: str) -> None:
        """Start to send a notification, in a thread of its own for each service.

        The process can end while a thread waits for a service that doesn't answer.
        """
        self._sent_at, self._results = time.monotonic(), {}
        text = text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"

        def send(service: Service) -> None:
            self._results[service.name] = service.send(f"sabtune: {title}", text)

        for service in self.services:
            thread = threading.Thread(target=send, args=[service], name="notifier", daemon=True)
            self._pending[service.name] = thread
            thread.start()

    def _shown(self, problem: Exception) -> str:
        """Return an error on one line, without secrets."""
        words = " ".join(str(problem).split())
        if not isinstance(problem, SabtuneError):
            words = f"{type(problem).__name__}: {words}"
        for url in self.urls:
            words = words.replace(url, HIDDEN)
        words = redact(words)
        return words if len(words) <= MAX_ERROR_CHARACTERS else f"{words[:MAX_ERROR_CHARACTERS]}…"


def _event(ending: Ending, failure: str) -> str:
    """Return what has happened, for the title."""
    if failure or (ending.lost and not ending.complete):
        return "failed"
    if ending.stopped:
        return "complete, ended by a stopping rule"
    return "complete" if ending.complete else "the budget is spent"


def _body(study: StudyRecord, ending: Ending, failure: str, ui: str) -> str:
    """Return the text: how the search ended, what the study shows, and where to see it."""
    from sabtune.analysis.conclusion import conclude
    from sabtune.tracking.links import server_address

    planned = study.planned
    count = f"{study.ended:,} of {planned:,} trials" if planned else counted(study.ended, "trial")
    words = study.counts_in_words()
    lines = [f"{count} ended ({words})." if words else f"{count} ended."]
    lines += [f"{failure}."] * bool(failure) + [f"{ending.lost}."] * bool(ending.lost)
    lines += [f"Ended by {ending.stopped}."] * bool(ending.stopped)
    lines.append(" ".join(conclude(study).sentences))
    lines += [f"MLflow doesn't hold everything: {ending.behind}"] * bool(ending.behind)
    store = study.store
    uri = store.tracking or study.tracking or store.mlflow_uri
    lines.append(f"Browse all trials: {server_address(uri, study.name) or ui}")
    return "\n\n".join(filter(None, lines))


def _service(url: str, option: str) -> Service:
    """Return the service of a URL. Raises ConfigError if Apprise is missing or refuses the URL."""
    if importlib.util.find_spec("apprise") is None:
        raise ConfigError(f"{option} needs Apprise: pip install 'sabtune[notify]'")
    scheme = SCHEME.match(url)
    name = f"{option} ({scheme[1].lower()})" if scheme else option
    with _silent(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what Apprise imports
        import apprise

        # Apprise would wait for its own threads, and so would the end of the process.
        asset = apprise.AppriseAsset(async_mode=False, service_timeout=0, app_id="sabtune")
        plugin: Any = apprise.Apprise.instantiate(url, asset=asset)
    if plugin is None:
        raise ConfigError(
            f"{name} isn't the URL of a service that Apprise can notify: give one like "
            "mailto://USER:PASSWORD@HOST or slack://TOKEN; Apprise's documentation lists them"
        )
    box = apprise.Apprise(plugin, asset=asset)

    def send(title: str, text: str) -> bool:
        try:
            with _silent():
                taken = box.notify(text, title=title, body_format=apprise.NotifyFormat.TEXT)
        except Exception:  # a plugin may raise anything, and a message could contain the URL
            return False
        return bool(taken)

    return Service(name=name, send=send)


class _Discard(logging.Filter):
    """A filter that discards every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False


@contextmanager
def _silent() -> Iterator[None]:
    """Discard what Apprise logs within the block: it may contain parts of a URL."""
    discard = _Discard()
    log.addFilter(discard)
    try:
        yield
    finally:
        log.removeFilter(discard)
