"""Test bad input to every command: one line with the value, exit code 2, no traceback."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forked import sabtune
from tests.stores import ARCHIVE

SECONDS = 200
"""The seconds after which a command is killed."""

MEMORY = 8 * 1024**3
"""The most bytes that a command may address beyond what its parent does."""

STUDY = """
from sabtune.config import TrainConfig, TrialConfig
from sabtune.training.evaluation import Ladder
from sabtune.models import LSTM, SAB
from sabtune.study.definition import ASHA, Resources, Study
from sabtune.tasks import Copying
from sabtune.training.trial import Limits

TASK = Copying.Config(length=5, symbols=2)
LADDER = Ladder(lengths=(5, 10), select=(5,), sequences=32)
TRAIN = dict(updates=50, batch_size=8, report_every=25)
STUDY = Study(name="tiny", task=TASK, ladder=LADDER, trials=2, startup=2)

def space(trial):
    model = SAB.Config(hidden=8, k_top=trial.suggest_int("k_top", 1, 3), k_att=1, k_trunc=2)
    return TrialConfig(model=model, train=TrainConfig(**TRAIN))
"""

CLUSTER = """
cluster_name: lab
provider: {type: local, head_ip: 127.0.0.1, worker_ips: []}
auth: {ssh_user: nobody}
"""

HUGE = 10**30
LONG = "n" * 300


@dataclass(frozen=True)
class Case:
    """A command that must fail, and a part of the message it must show.

    files: content by name, written to its folder. prepare: further changes to the folder.
    environment: environment variables of the command.
    """

    words: str | list[object]
    says: str
    files: dict[str, str | bytes] | None = None
    prepare: Callable[[Path], object] | None = None
    environment: dict[str, str] | None = None

    @property
    def arguments(self) -> list[object]:
        return list(self.words.split() if isinstance(self.words, str) else self.words)

    def __str__(self) -> str:
        name = " ".join(map(str, self.arguments))[:50]
        return f"{name} [{self.says[:30]}]"


def numbers(command: str, option: str, values: str) -> Iterator[Case]:
    """Yield `command` with each value of the option."""
    for value in values.split():
        yield Case([*command.split(), f"{option}={value}"], value)


WHOLE = f"0 -1 x 1.5 nan 1e3 0x10 {HUGE}"
POSITIVE = "0 -1 x nan inf -inf"

OPTIONS = [
    Case("serach", "serach"),
    Case("--nope", "--nope"),
    Case("search", "path"),
    Case("search study.py --nope", "--nope"),
    Case("search study.py other.py", "other.py"),
    Case("search study.py --trials", "--trials"),
    *numbers("search study.py", "--trials", WHOLE),
    *numbers("search study.py", "--seed", f"-1 x 1.5 4294967296 18446744073709551616 {HUGE}"),
    *numbers("search study.py", "--hours", POSITIVE),
    *numbers("search study.py", "--gpu-hours", POSITIVE),
    Case("search study.py --baseline nope", "nope"),
    Case("search study.py --dry-run --baseline nope", "nope"),
    Case(["search", "study.py", "--baseline", ""], "baseline"),
    Case("search study.py --warm-start nope", "nope"),
    Case("search ~nosuchuser/study.py", "~nosuchuser/study.py"),
    Case(["search", f"{LONG}.py"], LONG[:50]),
    Case(["search", "a\0b.py"], "a"),
    Case(["search", ""], "study file"),
    Case("search .", "."),
    Case("search /dev/null", "/dev/null"),
    Case("report", "study"),
    Case("report nope --store store", "nope"),
    Case(["report", "", "--store", "store"], "study"),
    Case("report old --store store --format html", "--format"),
    Case("report old --store store --out out --format docx", "docx"),
    Case(["report", "old", "--store", "store", "--out", "out", "--format", ""], "format"),
    Case("report old --store store --out /dev/null/x", "/dev/null/x"),
    Case("report old --store store --out ~nosuchuser/x", "~nosuchuser/x"),
    Case(["report", "old", "--store", "store", "--out", f"/tmp/{LONG}"], LONG[:50]),
    Case("report old --store store --out store/optuna.db", "optuna.db"),
    Case("status", "there is no store"),
    Case("status --follow", "there is no store"),
    Case("status nope --store store", "nope"),
    Case("sync nope --store store", "nope"),
    Case("confirm", "studies"),
    Case("confirm nope --store store", "nope"),
    Case("confirm old nope --store store", "nope"),
    *numbers("confirm old --store store", "--top", WHOLE),
    *numbers("confirm old --store store", "--seeds", WHOLE),
    *numbers("confirm old --store store", "--lengths", f"x 0 -5 1.5 5,,10 5,x {HUGE}"),
    Case("confirm old --store store --lengths 10,5", "(10, 5)"),
    Case("confirm old --store store --lengths 5,5", "(5, 5)"),
    *numbers("ablate old --store store", "--seeds", WHOLE),
    *numbers("ablate old --store store", "--changes", "nope ,"),
    Case("ablate old --store store --changes k_top,nope", "nope"),
    Case("ablate old --store store --changes k_top,,k_att", "''"),
    Case("ablate nope --store store", "nope"),
    Case("reproduce old --store store", "trial"),
    Case("reproduce nope 0 --store store", "nope"),
    *(Case(f"reproduce old {n} --store store", n) for n in ("99", "x", "1.5", str(HUGE))),
    Case("reproduce old 6 --store store", "6"),
    Case("extrapolate old --store store", "--lengths"),
    Case("extrapolate nope --lengths 20 --store store", "nope"),
    *(Case(f"extrapolate old {n} --lengths 20 --store store", n) for n in ("99", "x", str(HUGE))),
    *numbers("extrapolate old --store store", "--lengths", f"x 0 -5 1.5 , 5,, {HUGE}"),
    *numbers("extrapolate old --lengths 20 --store store", "--sequences", WHOLE),
    *numbers("ui --store store", "--port", "0 -1 x 1.5 65536 99999"),
    Case("data fetch", "names"),
    Case("data fetch nope", "nope"),
    Case("data fetch mnist nope", "nope"),
    Case("data list --data-dir study.py", "study.py"),
    Case("data list --data-dir ~nosuchuser/data", "~nosuchuser/data"),
    Case("data fetch mnist --data-dir /dev/null/data", "/dev/null/data"),
    Case("stop old", "--cluster"),
]


def study(*changes: tuple[str, str], says: str, words: str = "search study.py") -> Case:
    """Return a search of a study file with these changes of its text."""
    text = STUDY
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    return Case(words, says, {"study.py": text})


def field(argument: str, says: str) -> Case:
    """Return a search of a STUDY with one argument added or changed."""
    name = argument.partition("=")[0]
    given = {"name": 'name="tiny"', "trials": "trials=2", "startup": "startup=2"}
    before = given.get(name)
    if before is None:
        return study(("startup=2)", f"startup=2, {argument})"), says=says)
    return study((before, argument), says=says)


def file(text: str | bytes, says: str, name: str = "study.py") -> Case:
    """Return a search of a file with this text in place of a study."""
    return Case(["search", name], says, {name: text})


def trained(arguments: str, says: str) -> Case:
    """Return a search of a study whose TrainConfig has these arguments."""
    return study(("TrainConfig(**TRAIN)", f"TrainConfig(**TRAIN | dict({arguments}))"), says=says)


def model(arguments: str, says: str) -> Case:
    """Return a search of a study whose SAB.Config has these arguments."""
    return study(("hidden=8, ", ""), ("k_trunc=2)", f"k_trunc=2, {arguments})"), says=says)


def ladder(arguments: str, says: str) -> Case:
    return study(("lengths=(5, 10), select=(5,), sequences=32", arguments), says=says)


def suggested(call: str, says: str) -> Case:
    """Return a search of a space with this call in place of the one for k_top."""
    return study(('trial.suggest_int("k_top", 1, 3)', call), says=says)


def then(line: str, says: str) -> Case:
    """Return a search of a space that runs this line first."""
    return study(("def space(trial):\n", f"def space(trial):\n    {line}\n"), says=says)


STUDIES = [
    file("", "STUDY"),
    file(b"\x00\x01\x02", "study.py"),
    file(b"\xff\xfe\xff", "study.py"),
    file("x = (", "study.py:1"),
    file("if 1:\nx = 1", "study.py:2"),
    file("import nosuchmodule", "nosuchmodule"),
    file("from . import other", "study.py:1"),
    file("1 / 0", "ZeroDivisionError"),
    file("import sys; sys.exit()", "study.py:1"),
    file("raise SystemExit(0)", "study.py:1"),
    file("raise BaseException('stop')", "stop"),
    file("raise Exception('two\\nlines')", "two lines"),
    file("STUDY = 3\ndef space(trial): pass", "STUDY"),
    file("STUDY = {'name': 'x'}\ndef space(trial): pass", "STUDY"),
    file(STUDY, "study.txt", "study.txt"),
    study(("def space", "def spaces"), says="space"),
    study(("def space(trial)", "def space(trial, more)"), says="space"),
    study(("def space(trial)", "def space()"), says="space"),
    study(("def space(trial)", "async def space(trial)"), says="space"),
    study(("    return TrialConfig", "    yield TrialConfig"), says="space"),
    study(("    return TrialConfig", "    TrialConfig"), says="None"),
    study(("    return TrialConfig(model=model, ", "    return dict(model=model, "), says="{"),
    study(("from sabtune.tasks import Copying", ""), says="Copying"),
    study(("length=5", "length=-5"), says="-5"),
    study(("length=5", "length=0"), says="0"),
    study(("length=5", "length=5.5"), says="5.5"),
    study(("length=5", "length='5'"), says="'5'"),
    study(("length=5", f"length={HUGE}"), says=str(HUGE)),
    study(("symbols=2", "symbols=0"), says="0"),
    study(("symbols=2", "symbol=2"), says="symbol"),
    study(("symbols=2", f"symbols={HUGE}"), says=str(HUGE)),
    study(("TASK, ladder", "'copying', ladder"), says="copying"),
    study(("TASK, ladder", "None, ladder"), says="None"),
    ladder("lengths=(), select=(5,)", "lengths"),
    ladder("lengths=(10, 5), select=(5,)", "(10, 5)"),
    ladder("lengths=(5, 5), select=(5,)", "(5, 5)"),
    ladder("lengths=(6, 10), select=(6,)", "6"),
    ladder("lengths=5, select=5", "5"),
    ladder("lengths=(5, 'x'), select=(5,)", "x"),
    ladder("lengths=(5, 10.5), select=(5,)", "10.5"),
    ladder("lengths=(5, 10), select=(5,), sequences=0", "0"),
    ladder("lengths=(5, 10), select=(5,), sequences=True", "True"),
    ladder(f"lengths=(5, 10), select=(5,), sequences={HUGE}", str(HUGE)),
    ladder("lengths=(5, 10), select=(5,), solved_reports=0", "0"),
    study(("ladder=LADDER", "ladder=(5, 10)"), says="ladder"),
    field('name=""', "name"),
    field('name="a/b"', "a/b"),
    field('name="../x"', "../x"),
    field('name="-x"', "-x"),
    field('name="a b"', "a b"),
    field("name=5", "5"),
    field(f'name="{LONG}"', LONG[:50]),
    field("trials=0", "0"),
    field("trials=2.5", "2.5"),
    field("trials=True", "True"),
    field('trials="2"', "'2'"),
    field(f"trials={HUGE}", str(HUGE)),
    field("startup=0", "0"),
    field("seed=-1", "-1"),
    field("seed=2**32", str(2**32)),
    field("seed=0.5", "0.5"),
    field("budget=3", "budget"),
    field('pruning="asha"', "asha"),
    field("pruning=True", "True"),
    field("pruning=ASHA(grace=0)", "0"),
    field("pruning=ASHA(grace=10, reduction=1)", "1"),
    field("pruning=ASHA(grace=10, reduction=float('nan'))", "nan"),
    field("pruning=ASHA()", "grace"),
    field('resources={"cpus": 2}', "cpus"),
    field("resources=Resources(cpus=0)", "0"),
    field("resources=Resources(cpus=1.5)", "1.5"),
    field("resources=Resources(gpus=1.5)", "1.5"),
    field("resources=Resources(gpus=-1)", "-1"),
    field('resources=Resources(gpus="all")', "all"),
    field("resources=Resources(gpus=float('nan'))", "nan"),
    field("resources=Resources(cpus=4096)", "4096"),
    field('sampler="bayes"', "bayes"),
    field("sampler=None", "None"),
    field('objectives=("speed",)', "speed"),
    field('objectives=("seconds_per_update",)', "seconds_per_update"),
    field('objectives=("score", "score")', "score"),
    field("objectives=()", "objectives"),
    field('objectives="score"', "score"),
    field('sampler="cmaes", objectives=("score", "peak_memory")', "cmaes"),
    field("seeds=3", "3"),
    field("limits=Limits(hours=0)", "0"),
    field("limits=Limits(hours=float('nan'))", "nan"),
    field("limits=Limits(memory=-1)", "-1"),
    field("limits=3", "3"),
    field('points=({"k_top": 99},)', "99"),
    field('points=({"k_top": 0},)', "0"),
    field('points=({"k_top": 2.5},)', "2.5"),
    field('points=({"k_top": "2"},)', "'2'"),
    field('points=({"k_top": None},)', "None"),
    field('points=({"nope": 1},)', "nope"),
    field("points=(1,)", "1"),
    field('points=("k_top",)', "k_top"),
    field('points={"k_top": 1}', "k_top"),
    field("points=({1: 1},)", "1"),
    study(("    model =", "    model = None #"), says="None"),
    model("k_top=3", "k_top"),
    model("hidden=0", "0"),
    model("hidden=-8", "-8"),
    model("hidden=8.5", "8.5"),
    model("hidden=True", "True"),
    model("hidden=10**9", str(10**9)),
    model(f"hidden={HUGE}", str(HUGE)),
    model('scoring="cosine"', "cosine"),
    model('normalizer="max"', "max"),
    model('form="Released"', "Released"),
    model("epsilon=0.0", "0"),
    model("epsilon=float('nan')", "nan"),
    model("epsilon=float('inf')", "inf"),
    model('schedule="linear"', "linear"),
    model("schedule=None", "None"),
    model("forget_bias=float('nan')", "nan"),
    model("forget_bias='1'", "'1'"),
    model("nope=1", "nope"),
    trained("updates=0", "0"),
    trained("updates=1.5", "1.5"),
    trained(f"updates={HUGE}", str(HUGE)),
    trained("batch_size=0", "0"),
    trained("batch_size=10**12", str(10**12)),
    trained("report_every=0", "0"),
    trained("learning_rate=0.0", "0"),
    trained("learning_rate=-1.0", "-1"),
    trained("learning_rate=float('nan')", "nan"),
    trained("learning_rate=float('inf')", "inf"),
    trained("learning_rate='fast'", "fast"),
    trained("shortest=0", "0"),
    trained("shortest=99", "99"),
    trained("initial='random'", "random"),
    trained("nope=1", "nope"),
    suggested("trial.suggest_int('k_top', 3, 1)", "low=3, high=1"),
    suggested("trial.suggest_int('k_top', 1)", "suggest_int"),
    suggested("trial.suggest_nope('k_top', 1, 3)", "suggest_nope"),
    suggested("trial.suggest_categorical('k_top', [])", "study.py"),
    suggested("trial.suggest_categorical('k_top', [(1, 2), (3, 4)])[0]", "k_top"),
    suggested("trial.suggest_categorical('k_top', [[1], [2]])[0]", "k_top"),
    suggested("trial.suggest_categorical('k_top', [int, str])(1)", "k_top"),
    suggested("trial.suggest_int('k_top', -3, -1)", "-"),
    suggested("trial.suggest_float('k_top', 1, 3)", "k_top"),
    then("raise RuntimeError('no space')", "no space"),
    then("import sys; sys.exit(0)", "study.py"),
    then("nosuchname", "nosuchname"),
    then("raise RuntimeError('two\\nlines')", "two lines"),
    then("return trial", "TrialConfig"),
    Case(
        "search study.py --baseline a",
        "BASELINES",
        {"study.py": STUDY + "\nBASELINES = {'a': 3}\n"},
    ),
    Case(
        "search study.py --baseline a", "BASELINES", {"study.py": STUDY + "\nBASELINES = ['a']\n"}
    ),
    Case("search study.py", "constraints", {"study.py": STUDY + "\nconstraints = 3\n"}),
]
DRY = [
    Case(["search", "--dry-run", *case.arguments[1:]], case.says, case.files)
    for case in STUDIES[::4]
]
"""Every fourth case again, because a dry run must refuse it, too."""


def places(where: str, says: str | None = None, command: str = "search study.py") -> Case:
    return Case([*command.split(), "--store", where], where if says is None else says)


READ = "report old"

STORES = [
    places("/dev/null/store"),
    places("/proc/store"),
    places("study.py"),
    places("~nosuchuser/store"),
    places(f"/tmp/{LONG}", LONG[:50]),
    places("", "store"),
    places("a\0b", "null"),
    places("sqlite://"),
    places("sqlite:///"),
    places("sqlite:///:memory:"),
    places("sqlite:////dev/null/x.db", "/dev/null"),
    places("mysql://u@h/d"),
    places("postgres://u@h/d"),
    places("http://host/store"),
    places("s3://bucket/store"),
    places("file:///tmp/store"),
    places("://"),
    places("postgresql://"),
    places("postgresql://u:secret@127.0.0.1:1/d", "127.0.0.1"),
    places("postgresql://u:se@cret@127.0.0.1:1/d", "127.0.0.1"),
    places("postgresql://u@127.0.0.1:1/d?password=secret", "127.0.0.1"),
    places("postgresql://u@127.0.0.1:x/d", "postgresql"),
    places("nowhere", command=READ),
    places(".", "here", command=READ),
    places("study.py", command=READ),
    places("sqlite:///nowhere.db", "nowhere.db", command=READ),
    places("sqlite:///", command=READ),
    places("sqlite:///study.py", "study.py", command=READ),
    places("~nosuchuser/store", command="status old"),
    places("a\0b", "null", command=READ),
    places(LONG, LONG[:50], command=READ),
    *(
        Case(f"{command} --store store --files {where}", where)
        for command in ("search study.py",)
        for where in ("ftp://host/x", "s3://", "gs://", "/dev/null/x", "~nosuchuser/x", "study.py")
    ),
    Case("search study.py --files s3://bucket/x?nope=1", "nope"),
    *(
        Case(["search", "study.py", "--tracking", where], where.partition("secret")[0] or where)
        for where in (
            "./mlruns",
            "file:///tmp/mlruns",
            "databricks",
            "databricks://profile",
            "ftp://host",
            "nonsense",
            "http://",
            "http://127.0.0.1:x",
            "sqlite:///",
        )
    ),
    *(
        Case("search study.py", "MLFLOW_TRACKING_URI", environment={"MLFLOW_TRACKING_URI": where})
        for where in ("./mlruns", "file:///tmp/mlruns", "databricks", "nonsense", "ftp://x")
    ),
    Case("search study.py --tracking postgresql://u@127.0.0.1:1/d", "postgresql://127.0.0.1:1/d"),
    Case("search study.py", "ftp://x", environment={"SABTUNE_FILES": "ftp://x"}),
    Case("data list", "~nosuchuser/d", environment={"SABTUNE_DATA": "~nosuchuser/d"}),
]


def overwritten(name: str, content: bytes) -> Callable[[Path], object]:
    """Replace the content of a file of the store."""
    return lambda folder: (folder / "store" / name).write_bytes(content)


def truncated(name: str, share: float) -> Callable[[Path], object]:
    def prepare(folder: Path) -> None:
        path = folder / "store" / name
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return prepare


def executed(*statements: str, name: str = "optuna.db") -> Callable[[Path], object]:
    """Run SQL statements on a database of the store."""

    def prepare(folder: Path) -> None:
        with sqlite3.connect(folder / "store" / name) as database:
            for statement in statements:
                database.execute(statement)
        database.close()

    return prepare


def attribute(key: str, value: object, table: str = "study") -> Callable[[Path], object]:
    """Change the value of a user attribute of every study, or of every trial."""
    text = json.dumps(value).replace("'", "''")
    where = f"WHERE key = '{key}'"  # keys come from this file only
    return executed(f"UPDATE {table}_user_attributes SET value_json = '{text}' {where}")


def foreign(folder: Path) -> None:
    """Replace the store's database with one of another program."""
    (folder / "store" / "optuna.db").unlink()
    executed("CREATE TABLE mine (x INTEGER)")(folder)


def damage(prepare: Callable[[Path], object], says: str, *commands: str) -> list[Case]:
    return [Case(command, says, prepare=prepare) for command in commands]


READERS = (
    "report old --store store",
    "status old --store store",
    "extrapolate old --lengths 20 --store store",
)
WRITERS = ("confirm old --store store", "sync old --store store", "search old.py --store store")
EVERY = READERS + WRITERS

DAMAGED = [
    *damage(overwritten("optuna.db", b"no database"), "store", *EVERY),
    *damage(overwritten("optuna.db", b""), "store", *READERS),
    *damage(truncated("optuna.db", 0.5), "store", *EVERY),
    *damage(foreign, "store", *READERS),
    *damage(executed("DROP TABLE trials"), "store", *READERS),
    *damage(executed("UPDATE alembic_version SET version_num = 'v99.0.0.a'"), "store", *EVERY),
    *damage(attribute("plan", 3), "old", *EVERY),
    *damage(attribute("plan", {"study": []}), "old", "search old.py --store store"),
    *damage(attribute("format", "x"), "store", *READERS),
    *damage(attribute("format", 99), "99", *READERS),
    *damage(attribute("assignment", 3, "trial"), "old", *EVERY),
    *damage(attribute("assignment", {"number": "x"}, "trial"), "old", *READERS),
    *damage(attribute("result", [1], "trial"), "old", *READERS),
    *damage(overwritten("mlflow.db", b"no database"), "mlflow", "sync old --store store"),
    *damage(truncated("mlflow.db", 0.5), "mlflow", "sync old --store store"),
]


def checkpoints(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """Change every checkpoint of the store."""

    def prepare(folder: Path) -> None:
        for checkpoint in sorted(folder.glob("store/trials/*/*/checkpoint_*")):
            change(checkpoint)

    return prepare


def weights(content: bytes) -> Callable[[Path], object]:
    return checkpoints(lambda path: (path / "weights.safetensors").write_bytes(content))


def described(content: str) -> Callable[[Path], object]:
    return checkpoints(lambda path: (path / "run.json").write_text(content))


DEEP = "[" * 100_000
EXTRAPOLATE = "extrapolate old --lengths 20 --store store"

CHECKPOINTS = [
    *damage(checkpoints(shutil.rmtree), "checkpoint", EXTRAPOLATE),
    *damage(
        checkpoints(lambda path: (path / "weights.safetensors").unlink()), "weights", EXTRAPOLATE
    ),
    *damage(weights(b""), "weights", EXTRAPOLATE),
    *damage(weights(b"\xff" * 64), "weights", EXTRAPOLATE),
    *damage(weights((2**62).to_bytes(8, "little") + b"{}"), "weights", EXTRAPOLATE),
    *damage(weights(b"\x02" + b"\0" * 7 + b"{}"), "checkpoint", EXTRAPOLATE),
    *damage(described(""), "run.json", EXTRAPOLATE),
    *damage(described("3"), "run.json", EXTRAPOLATE),
    *damage(described("{}"), "run.json", EXTRAPOLATE),
    *damage(described(DEEP), "run.json", EXTRAPOLATE),
    *damage(
        checkpoints(lambda path: (path / "progress.json").write_text('{"format": 99}')),
        "manifest.json",
        EXTRAPOLATE,
    ),
    *damage(checkpoints(lambda path: (path / "run.json").unlink()), "run.json", EXTRAPOLATE),
]


def cluster(text: str | bytes, says: str = "cluster.yaml") -> list[Case]:
    """Return a case with this cluster file for each command that reads one differently."""
    commands = ("doctor --cluster cluster.yaml", "search study.py --cluster cluster.yaml")
    return [Case(command, says, {"cluster.yaml": text}) for command in commands]


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

CLUSTERS = [
    *cluster(""),
    *cluster("a: ["),
    *cluster("3"),
    *cluster("[1, 2]"),
    *cluster(b"\xff\xfe\x00"),
    *cluster("!!python/object/apply:os.getcwd []"),
    *cluster("{cluster_name: lab}", "provider"),
    *cluster("{cluster_name: lab, provider: 3}"),
    *cluster("{cluster_name: lab, provider: {}}", "type"),
    *cluster(CLUSTER.replace("worker_ips: []", "worker_ips: 3")),
    *cluster(CLUSTER + "max_workers: many\n"),
    *cluster(CLUSTER + "available_node_types: 3\n"),
    *cluster(CLUSTER + "available_node_types: {a: {resources: {CPU: x}}}\n"),
    *cluster(LAUGHS + CLUSTER),
    *cluster(DEEP),
    *(
        Case([*command.split(), "--cluster", where], where[:50])
        for where in ("nowhere.yaml", ".", "~nosuchuser/c.yaml", f"{LONG}.yaml")
        for command in ("doctor", "search study.py", "status old", "stop old", "ui", "report old")
    ),
    Case("status old --cluster nowhere.yaml --follow", "nowhere.yaml"),
    Case("report old --cluster cluster.yaml --out out", "--out", {"cluster.yaml": CLUSTER}),
]

CASES = [*OPTIONS, *STUDIES, *DRY, *STORES, *DAMAGED, *CHECKPOINTS, *CLUSTERS]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store and the file of its study."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "store-0.1"


def run(
    *arguments: object, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with limits on its time and memory."""
    return sabtune(*arguments, cwd=cwd, environment=environment, seconds=SECONDS, memory=MEMORY)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_input_is_one_line(case: Case, old: Path, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    if "store" in case.arguments:
        shutil.copytree(old, folder)
    else:
        folder.mkdir()
    (folder / "study.py").write_text(STUDY)
    for name, content in (case.files or {}).items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
    if case.prepare is not None:
        case.prepare(folder)
    shown = run(*case.arguments, cwd=folder, environment=case.environment)
    assert shown.returncode == 2, (shown.stdout + shown.stderr)[-3000:]
    assert shown.stderr.count("\n") == 1, shown.stderr[-3000:]
    assert shown.stderr.startswith("sabtune: ")
    assert case.says in shown.stderr
    assert "Traceback" not in shown.stdout + shown.stderr
    assert "secret" not in shown.stdout + shown.stderr


def test_a_port_in_use(old: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = run("ui", "--store", "store", "--port", port, cwd=old)
    assert (shown.returncode, str(port) in shown.stderr) == (2, True)


def test_there_are_enough_distinct_cases() -> None:
    assert len(CASES) >= 400
    unlike = {
        (str(case), *map(str, (case.files, case.prepare, case.environment))) for case in CASES
    }
    assert len(unlike) == len(CASES)
