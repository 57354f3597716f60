"""Test searches from Python: in a script, in a notebook, and through the examples of the docs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from mlflow import MlflowClient
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from sabtune.cluster import ENVIRONMENT
from sabtune.storage.store import Store
from sabtune.study.attributes import ATTEMPTS
from sabtune.study.record import StudyRecord
from tests.studies import learnable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parent.parent

EXAMPLES = ["search", "open_study", "confirm", "ablate", "extrapolate", "reproduce", "report"]
"""The functions whose examples run, in this order, in one folder."""

RUN_EXAMPLES = """
import doctest
from contextlib import nullcontext
from pathlib import Path

import sabtune as sab
from sabtune.cluster.ray_session import some_ray
from sabtune.tuning import run

with some_ray(Path("ray.log")):  # one for all of them, which takes half of the time
    run.some_ray = lambda *_: nullcontext("")
    for name in {names}:
        text = getattr(sab, name).__doc__
        example = doctest.DocTestParser().get_doctest(text, {{}}, name, None, 0)
        assert example.examples, name
        assert doctest.DocTestRunner().run(example).failed == 0, name

found = sab.open_study("quick")
champion = found.champion
assert champion.confirmed and champion.seeds == 2, champion
assert found.model(champion.trial).config == found.model().config
assert "quick" in found._repr_html_() and found.conclusion in found._repr_html_()
assert set(found.figures) >= {{"accuracy", "learning"}}
assert found.trials.loc[0, "trial.model.hidden"] == 16
assert found.ladder()["length"].tolist() == [3, 6]
"""


def run_script(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(text)
    return subprocess.run(
        [sys.executable, script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={name: os.environ[name] for name in os.environ if name not in ENVIRONMENT},
    )


def test_the_examples_of_the_functions_run_and_do_what_the_commands_do(tmp_path: Path) -> None:
    done = run_script(RUN_EXAMPLES.format(names=EXAMPLES), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout == ""
    client = MlflowClient(Store(tmp_path / "sabtune-store").mlflow_uri)
    assert client.get_model_version_by_alias("quick", "champion").tags["sabtune.confirmed_in"] == (
        "quick.confirm"
    )
    for name in ("quick", "quick.confirm", "quick.ablate"):
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        parents = [
            run
            for run in client.search_runs([experiment.experiment_id])
            if "mlflow.parentRunId" not in run.data.tags
        ]
        (parent,) = parents
        files = {file.path for file in client.list_artifacts(parent.info.run_id, "report")}
        assert "report/report.html" in files


def test_a_program_that_imported_ray_first_is_told_what_to_do(tmp_path: Path) -> None:
    done = run_script("import ray\nimport sabtune as sab\nfrom study import *\n"
                      "sab.search(STUDY, space, progress=False)\n",
                      learnable(tmp_path, name="study").parent)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "sabtune.errors.ClusterError: Ray was imported without authentication"
    )
    assert "RAY_AUTH_MODE=token" in done.stderr


CELLS = '''
import sabtune as sab

def space(trial):
    """One symbol, two steps later."""
    return sab.TrialConfig(
        model=sab.LSTM.Config(hidden=trial.suggest_int("hidden", 12, 40)),
        train=sab.TrainConfig(
            updates=3000, batch_size=16, learning_rate=0.02, report_every=30
        ),
    )

study = sab.Study(
    name="interrupted",
    task=sab.Copying.Config(length=2, symbols=1, alphabet=2),
    ladder=sab.Ladder(lengths=(2, 4), select=(2,), sequences=16),
    trials=2,
)
# cell
found = sab.search(study, space)
# cell
found = sab.search(study, space)
len(found.trials), set(found.trials["state"])
# cell
more = sab.search(study, space, trials=3)
more
'''


class Interrupting(NotebookClient):
    """A client that interrupts the kernel during the second cell, once a trial has a score."""

    folder: Path

    async def async_execute_cell(
        self, cell: Any, cell_index: int, *options: Any, **named: Any
    ) -> Any:
        if cell_index == 1:
            command = [sys.executable, "-c", INTERRUPT, str(os.getpid()), str(self.folder)]
            self.interrupter = subprocess.Popen(command)
        return await super().async_execute_cell(cell, cell_index, *options, **named)


INTERRUPT = """
import os, signal, sys, time
from pathlib import Path
import psutil
from sabtune.storage.store import Store
from sabtune.study.attributes import ATTEMPTS
from sabtune.study.record import StudyRecord

parent, folder = int(sys.argv[1]), Path(sys.argv[2])
store = Store(folder / "sabtune-store")

def started():
    try:
        study = StudyRecord.open(store, "interrupted")
    except Exception:
        return False
    return any(trial.scores for trial in study.trials)

while not started():
    time.sleep(0.5)
(kernel,) = [p for p in psutil.Process(parent).children() if "ipykernel_launcher" in p.cmdline()]
os.kill(kernel.pid, signal.SIGINT)
"""


def notebook(text: str) -> Any:
    new: Any = nbformat.v4  # it has no types
    return new.new_notebook(cells=[new.new_code_cell(c.strip()) for c in text.split("# cell\n")])


def test_an_interrupted_search_resumes_in_the_same_kernel(tmp_path: Path) -> None:
    book = notebook(CELLS)
    book.cells[1].metadata["tags"] = ["raises-exception"]
    client = Interrupting(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.folder = tmp_path
    client.execute()
    assert client.interrupter.wait(60) == 0
    (error,) = [output for output in book.cells[1].outputs if output.output_type == "error"]
    assert error.ename == "KeyboardInterrupt"
    assert "study 'interrupted' was interrupted: finished trials are kept" in error.evalue
    shown = "".join(str(output) for output in book.cells[2].outputs)
    lines = re.sub(r"<[^>]*>", "", shown)
    assert "2 of 2 trials" in lines
    assert "0 running, 0 pruned, 0 failed, 2 complete · best" in lines
    assert "stderr" not in shown
    assert "(2, {'complete'})" in shown
    assert "3 trials (3 complete)" in str(book.cells[3].outputs)
    study = StudyRecord.open(Store(tmp_path / "sabtune-store"), "interrupted")
    resumed = [trial.user_attrs.get(ATTEMPTS, 0) for trial in study.frozen]
    assert max(resumed[:2]) == 1
    for trial in study.trials:
        assert sorted(trial.scores) == list(range(30, 3001, 30))


def test_the_tutorial_runs(tmp_path: Path) -> None:
    book = nbformat.reads((ROOT / "docs/tutorial.ipynb").read_text(), as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in book.cells)
    began = time.monotonic()
    try:
        NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    except CellExecutionError as problem:
        pytest.fail(str(problem))
    print(f"the tutorial took {time.monotonic() - began:.0f} s")  # noqa: T201
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    texts = " ".join(str(output.get("data", {}).get("text/plain", "")) for output in outputs)
    assert "500: '100.0%'" in texts
    assert "study 'tutorial'" in texts
    (figure,) = [
        output.data["application/vnd.plotly.v1+json"]
        for output in outputs
        if "application/vnd.plotly.v1+json" in output.get("data", {})
    ]
    lengths = {value for trace in figure["data"] for value in trace.get("x") or []}
    assert lengths >= {10, 20, 100}
