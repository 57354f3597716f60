"""Test notifications with a real server on this machine, and that their URLs stay secret."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import sabtune as sab
from sabtune import cli, interrupts, notification
from sabtune.analysis.conclusion import conclude
from sabtune.cli import notifying, problems
from sabtune.errors import ConfigError, StoreError
from sabtune.notification import VARIABLE, Notifier
from sabtune.storage.store import Store
from sabtune.study.attributes import PLAN
from sabtune.study.record import StudyRecord
from sabtune.tuning.run import Ending
from tests import faults
from tests.reports import searched
from tests.studies import heed_interrupts

SECRET = "t0ken-0f-the-tests"


class Server:
    """An HTTP server that receives notifications."""

    def __init__(self, port: int):
        self.url = f"json://127.0.0.1:{port}/{SECRET}"
        self.received: list[dict[str, Any]] = []


@contextmanager
def serving(status: int = 200) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            served.received.append(json.loads(content) | {"path": self.path})
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        served = Server(listening.server_address[1])
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield served
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture
def silent() -> Iterator[str]:
    """Return the URL of a server that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"json://127.0.0.1:{listening.getsockname()[1]}/{SECRET}"


@pytest.fixture
def nobody() -> str:
    """Return a URL at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"json://127.0.0.1:{free.getsockname()[1]}/{SECRET}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with a study of 13 trials, of 20 planned ones."""
    made = Store(tmp_path_factory.mktemp("notified")).made()
    searched(made, "copying", 13).set_user_attr(PLAN, {"study": {"trials": 20}})
    return made


@pytest.fixture(autouse=True)
def _no_signal() -> None:
    interrupts.forget()


def sent(notifier: Notifier, store: Store, ending: Ending) -> str:
    notifier.ended("copying", store, ending, "sabtune ui copying")
    return notifier.finish()


# --- messages


def test_the_message_has_the_conclusion_and_the_link(server: Server, store: Store) -> None:
    assert sent(Notifier([server.url]), store, Ending(complete=True)) == ""
    (message,) = server.received
    assert message["path"] == f"/{SECRET}"
    assert message["title"] == "sabtune: copying: complete"
    study = StudyRecord.open(store, "copying")
    for text in (*conclude(study).sentences, "Browse all trials: sabtune ui copying"):
        assert text in message["message"]
    assert message["message"].startswith(f"{study.ended} of 20 trials ended (")


@pytest.mark.parametrize(
    ("ending", "title", "told"),
    [
        (Ending(complete=False, out_of_budget=True), "the budget is spent", "of 20 trials ended"),
        (
            Ending(complete=True, stopped="luck (#7)"),
            "complete, ended by a stopping rule",
            "Ended by luck (#7).",
        ),
        (Ending(complete=False, lost="raylet was killed"), "failed", "raylet was killed."),
    ],
)
def test_the_message_says_how_the_search_ended(
    server: Server, store: Store, ending: Ending, title: str, told: str
) -> None:
    assert sent(Notifier([server.url]), store, ending) == ""
    (message,) = server.received
    assert message["title"] == f"sabtune: copying: {title}"
    assert told in message["message"]


def test_all_services_are_notified(server: Server, store: Store) -> None:
    with serving() as other:
        assert sent(Notifier([server.url, other.url]), store, Ending(complete=True)) == ""
        assert len(server.received) == len(other.received) == 1


def test_an_interrupted_search_notifies_nobody(server: Server, store: Store) -> None:
    notifier, said = Notifier([server.url]), list[str]()
    assert sent(notifier, store, Ending(complete=False)) == ""
    with pytest.raises(KeyboardInterrupt), notifier.failures("copying", said.append):
        raise interrupts.Interrupted(signal.SIGTERM)
    assert server.received == []


def test_a_failure_is_notified_without_secrets(server: Server, nobody: str) -> None:
    notifier, said = Notifier([server.url]), list[str]()
    with pytest.raises(StoreError), notifier.failures("copying", said.append):
        raise StoreError(f"no access to postgresql://anna:pa55word@host/db or {server.url}")
    with pytest.raises(ZeroDivisionError), notifier.failures("copying", said.append):
        raise ZeroDivisionError("no\nway")
    first, second = server.received
    assert first["title"] == "sabtune: copying: failed"
    assert first["message"] == "no access to postgresql://anna:***@host/db or ***"
    assert second["message"] == "ZeroDivisionError: no way"
    assert said == []
    with pytest.raises(StoreError), Notifier([nobody]).failures("copying", said.append):
        raise StoreError("no access")
    assert said == [
        "The notification was not sent: --notify (json) couldn't be reached or refused it"
    ]


def test_a_study_whose_trials_all_failed_has_failed(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sabtune.study.summary.total_failure", lambda _: "all 13 trials failed")
    assert sent(Notifier([server.url]), store, Ending(complete=True)) == ""
    assert server.received[0]["title"] == "sabtune: copying: failed"
    assert "all 13 trials failed." in server.received[0]["message"]


# --- services that can't be notified


@pytest.mark.parametrize("status", [403, 500])
def test_a_refusal_is_said_in_one_line_without_the_url(
    store: Store, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], status: int
) -> None:
    caplog.set_level(logging.DEBUG, "apprise")
    with serving(status) as server:
        told = sent(Notifier([server.url]), store, Ending(complete=True))
    assert told == (
        "The notification was not sent: --notify (json) couldn't be reached or refused it"
    )
    assert SECRET not in caplog.text
    assert capfd.readouterr() == ("", "")


def test_a_service_that_is_not_there(
    nobody: str, server: Server, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    told = sent(Notifier([nobody, server.url]), store, Ending(complete=True))
    assert told == (
        "The notification was not sent: --notify 1 (json) couldn't be reached or refused it"
    )
    assert len(server.received) == 1
    assert capfd.readouterr() == ("", "")


def test_a_service_that_never_answers_is_not_waited_for(
    silent: str, server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notification, "SEND_SECONDS", 0.5)
    before = time.monotonic()
    told = sent(Notifier([silent, server.url]), store, Ending(complete=True))
    assert told == "The notification was not sent: --notify 1 (json) didn't answer within 0.5 s"
    assert len(server.received) == 1
    assert time.monotonic() - before < 3.5  # Apprise itself waits for four seconds
    waiting = [thread for thread in threading.enumerate() if thread.name == "notifier"]
    assert waiting
    assert all(thread.daemon for thread in waiting)


def test_a_process_ends_while_a_service_does_not_answer(silent: str) -> None:
    code = (
        "import time; from sabtune.notification import Notifier; "
        "import sabtune.notification as n; n.SEND_SECONDS = 0.1; "
        f"made = Notifier([{silent!r}]); made._send('x', 'y'); made.finish(); "
        "print(time.monotonic())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - float(done.stdout) < 3
    assert done.stderr == ""


# --- URLs


@pytest.mark.parametrize(
    ("urls", "told"),
    [
        ([f"slak://{SECRET}"], r"--notify \(slak\) isn't the URL of a service"),
        ([SECRET], "--notify isn't the URL of a service"),
        (["json://localhost", f"slack://{SECRET}"], r"--notify 2 \(slack\) isn't the URL"),
        ([f"json://localhost/ {SECRET} x"], None),
    ],
)
def test_a_url_that_apprise_does_not_know_is_refused_without_showing_it(
    urls: list[str], told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    if told is None:
        Notifier(urls)
        return
    with pytest.raises(ConfigError, match=told) as problem:
        Notifier(urls)
    assert SECRET not in str(problem.value) + caplog.text
    assert "\n" not in str(problem.value)


def test_without_apprise_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"--notify needs Apprise: pip install 'sabtune\[notify"):
        Notifier([f"json://{SECRET}"])
    assert Notifier([]).services == []


@pytest.mark.parametrize("words", [["search", "nowhere.py"], ["confirm", "x"], ["ablate", "x"]])
def test_a_command_checks_the_url_first(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sabtune", *words, "--notify", f"slak://{SECRET}"])
    assert cli.run() == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("sabtune: --notify (slak) isn't the URL of a service")
    assert SECRET not in shown.err
    assert not list(tmp_path.iterdir())


def test_the_environment_names_the_services(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, f"json://localhost slak://{SECRET}")
    monkeypatch.setattr(sys, "argv", ["sabtune", "search", "nowhere.py"])
    assert cli.run() == 2
    assert "--notify 2 (slak) isn't" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"\$SABTUNE_NOTIFY 2 \(slak\) isn't"):
        sab.confirm("copying")
    with pytest.raises(ConfigError, match=r"notify \(slak\) isn't"):
        sab.confirm("copying", notify=f"slak://{SECRET}")


def test_a_url_does_not_go_to_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"json://localhost/{SECRET}"
    with pytest.raises(ConfigError, match="set SABTUNE_NOTIFY in the environment") as problem:
        notifying.notifier_of([url], cluster=True)
    assert SECRET not in str(problem.value)
    monkeypatch.setenv(VARIABLE, url)
    assert notifying.notifier_of([url], cluster=True).services == []
    assert len(notifying.notifier_of([url]).services) == 1


class ReplacedError(Exception):
    """Raised in place of replacing the process."""


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (["search", "a.py", "--notify", "json://a", "--trials", "3", "--notify=json://b"],
         ["search", "a.py", "--trials", "3"]),
        (["confirm", "--notify", "json://a", "--notify=json://b", "--", "--notify", "x"],
         ["confirm", "--", "--notify", "x"]),
        (["search", "a.py", "--trials", "3"], None),
        (["search", "a.py", "--notify"], None),
        (["search", "a.py", "--notify", "a b"], None),
        (["search", "a.py", "--notify", "json://a", "--cluster", "c.yaml"], None),
        (["report", "--notify", "json://a"], None),
    ],
)  # fmt: skip
def test_urls_move_from_the_command_line_to_the_environment(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], others: list[str] | None
) -> None:
    replaced: list[tuple[str, list[str], str]] = []

    def replace(path: str, words: list[str], environment: dict[str, str]) -> None:
        replaced.append((path, words, environment[VARIABLE]))
        raise ReplacedError

    monkeypatch.setattr(os, "execve", replace)
    monkeypatch.setattr(sys, "argv", ["sabtune", *arguments])
    notifying.hide_urls()  # this process was started in another way
    assert not replaced
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "sabtune", *arguments])
    if others is None:
        notifying.hide_urls()
        return
    with pytest.raises(ReplacedError):
        notifying.hide_urls()
    program = [sys.executable, "-m", "sabtune", *others]
    assert replaced == [(sys.executable, program, "json://a json://b")]


def test_errors_hide_whole_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sabtune", "search", "--notify", "slack://one/two"])
    monkeypatch.setenv(VARIABLE, "ntfy://three")
    text = "Failed: slack://one/two ntfy://three"
    assert problems.redacted(text) == "Failed: *** ***"


# --- a whole search


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_that_a_rule_ends_notifies_and_keeps_the_url_secret(
    server: Server, tmp_path: Path
) -> None:
    file = faults.study(tmp_path, "early", ["plain"] * 8, updates=30)
    text = file.read_text()
    text = text.replace(
        "    limits=", "    startup=1,\n    stop=NoImprovement(configurations=1),\n    limits="
    )
    file.write_text("from sabtune.study.stopping import NoImprovement\n" + text)
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    command = [sys.executable, "-u", "-m", "sabtune", "search", "early.py", "--notify", server.url]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline()]
        recorded = Path(f"/proc/{process.pid}/cmdline").read_text()
        lines += process.stdout
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert errors == ""
    assert "search\0early.py" in recorded
    rule = r"no better configuration within 1 configuration \(best #\d, score 0\.\d+\)"
    shown = "".join(lines)
    assert re.search(rf"Complete: ended by {rule}\.\n.*early\.py --ignore-stop\n", shown)
    (message,) = server.received
    assert message["title"] == "sabtune: early: complete, ended by a stopping rule"
    assert re.search(rf"Ended by {rule}\.", message["message"])
    study = StudyRecord.open(Store(tmp_path / "sabtune-store"), "early")
    assert study.ended < 8
    assert not study.running
    assert conclude(study).sentences[0] in message["message"]
    assert "-m sabtune ui early" in message["message"]
    for content in (recorded, shown, message["message"]):
        assert SECRET not in content
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
