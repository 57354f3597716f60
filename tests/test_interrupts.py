"""Test that signals end a command with one line and the right code, unless they are ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from sabtune import interrupts
from tests.studies import heed_interrupts

WAITS = """
import sys, time
import sabtune.cli
from sabtune import interrupts
def wait(**_):
    {body}
sabtune.cli.app = wait
sabtune.cli.main()
"""
SLEEP = "print('ready', flush=True); time.sleep(60)"
STUBBORN = """
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("cleaning", flush=True)
        time.sleep(60)
"""
CLEAN = """
    with interrupts.ending_cleanly(lambda: True):
        print("ready", flush=True)
        while interrupts.received() is None:
            time.sleep(0.01)
    sys.exit(130)
"""


def ended(
    body: str,
    *signals: signal.Signals,
    before: Callable[[], None] = heed_interrupts,
) -> tuple[int, str]:
    """Run a command, send a signal after each line of output, and return exit code and stderr."""
    command = [sys.executable, "-c", WAITS.format(body=body)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for number in signals:
            process.stdout.readline()
            process.send_signal(number)
        errors = process.stderr.read()
    return process.returncode, errors


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_command_in_one_line(number: signal.Signals, code: int) -> None:
    assert ended(SLEEP, number) == (code, "sabtune: interrupted\n")
    assert ended(CLEAN, number) == (code, "")


def test_a_second_signal_ends_it_at_once() -> None:
    code, errors = ended(STUBBORN, signal.SIGINT, signal.SIGTERM)
    assert code == 143
    assert errors == "sabtune: ended at once by a second SIGTERM\n"


def test_a_signal_ignored_at_the_start_stays_ignored() -> None:
    def nohup() -> None:
        heed_interrupts()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    body = "import os; os.kill(os.getpid(), 1); print('goes on', flush=True); time.sleep(60)"
    assert ended(body, signal.SIGTERM, before=nohup)[0] == 143


def as_ray_does() -> None:
    """Install a handler as `ray.init` does, and raise the signal."""
    with interrupts.kept():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)


def test_signal_handlers_are_restored() -> None:
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    with interrupts.ending_cleanly(lambda: True):
        assert signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM]
    with pytest.raises(interrupts.Interrupted):
        as_ray_does()
    assert {number: signal.getsignal(number) for number in interrupts.SIGNALS} == before
    interrupts._State.received = None
