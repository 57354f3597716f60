"""Test that imports point down and that each external library is used in its own place."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sabtune"

LAYERS = [
    ["sabtune"],
    [
        "sabtune.errors",
        "sabtune.escaping",
        "sabtune.interrupts",
        "sabtune.loopback",
        "sabtune.provenance",
        "sabtune.redaction",
        "sabtune.seeding",
        "sabtune.wording",
    ],
    ["sabtune.schema", "sabtune.databases", "sabtune.manifest"],
    ["sabtune.schedule", "sabtune.ops", "sabtune.storage", "sabtune.data"],
    ["sabtune.parts"],
    ["sabtune.models", "sabtune.tasks"],
    ["sabtune.config"],
    ["sabtune.training"],
    ["sabtune.checkpoint", "sabtune.testing"],
    ["sabtune.study"],
    ["sabtune.analysis"],
    ["sabtune.tracking"],
    ["sabtune.cluster"],
    ["sabtune.tuning"],
    ["sabtune.compare"],
    ["sabtune.terminal"],
    ["sabtune.reporting"],
    ["sabtune.notification"],
    ["sabtune.api"],
    ["sabtune.cli"],
    ["sabtune.__main__"],
]
"""The rows of parts from the bottom up; a part imports only from lower rows and from itself."""

OUTSIDE = {
    "numba": {"sabtune.ops"},
    "llvmlite": {"sabtune.ops"},
    "triton": {"sabtune.ops"},
    "ray": {"sabtune.cluster", "sabtune.tuning"},
    "aiohttp": {"sabtune.cluster"},
    "apprise": {"sabtune.notification"},
    "psutil": {"sabtune.cluster", "sabtune.parts"},
    "sklearn": {"sabtune.analysis", "sabtune.data"},
    "PIL": {"sabtune.data"},
    "pooch": {"sabtune.data"},
    "requests": {"sabtune.data"},
    "yaml": {"sabtune.cluster"},
    "pyarrow": {"sabtune.storage"},
    "filelock": {"sabtune.cluster", "sabtune.data", "sabtune.databases", "sabtune.study"},
    "sqlalchemy": {
        "sabtune.cluster",
        "sabtune.databases",
        "sabtune.storage",
        "sabtune.study",
        "sabtune.tracking",
    },
    "optuna": {
        "sabtune.analysis",
        "sabtune.api",
        "sabtune.compare",
        "sabtune.reporting",
        "sabtune.tuning",
        "sabtune.storage",
        "sabtune.study",
        "sabtune.terminal",
        "sabtune.tracking",
    },
    "optuna_dashboard": {"sabtune.tuning"},
    "mlflow": {"sabtune.tracking"},
    "uvicorn": {"sabtune.tracking"},
    "rich": {"sabtune.analysis", "sabtune.api", "sabtune.cli", "sabtune.terminal"},
    "typer": {"sabtune.cli"},
    "scipy": {"sabtune.analysis"},
    "matplotlib": {"sabtune.reporting"},
    "plotly": {"sabtune.api", "sabtune.reporting"},
    "pandas": {"sabtune.api"},
    "IPython": {"sabtune.terminal"},
    "jinja2": {"sabtune.reporting"},
    "markupsafe": {"sabtune.reporting"},
}
"""The parts that may import each external library, other than those in FOR_ALL."""

BACKENDS = {"compiled", "triton", "eager"}
"""The backends of SAB that are folders of `sabtune.ops`."""

SHARED_BY_BACKENDS = {"call", "checks", "higher_order", "reference"}
"""The modules of `sabtune.ops` that every backend may import, and no other ones."""

FOR_ALL = {"torch", "numpy", "safetensors"} | set(sys.stdlib_module_names)

modules = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
]


def part(module: str) -> str:
    """Return the part that a module belongs to: its package in sabtune, or the module itself."""
    return ".".join(module.split(".")[:2])


def rank(module: str) -> int:
    return next(i for i, row in enumerate(LAYERS) if part(module) in row)


def imports(module: str) -> Iterator[str]:
    """Yield every module that `module` imports, also inside functions."""
    path = ROOT / Path(*module.split("."))
    source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            inner = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name if name in modules else node.module for name in inner)


def test_every_part_has_a_layer() -> None:
    assert {part(module) for module in modules} == {name for row in LAYERS for name in row}


@pytest.mark.parametrize("module", modules)
def test_imports_point_down(module: str) -> None:
    """The package itself is left out: it imports the public names when they are first used."""
    if module == "sabtune":
        return
    for name in imports(module):
        if name.split(".")[0] == "sabtune" and part(name) != part(module):
            assert rank(name) < rank(module), f"{module} imports {name}"


@pytest.mark.parametrize("module", modules)
def test_external_libraries_are_used_in_their_places(module: str) -> None:
    for name in imports(module):
        top = name.split(".")[0]
        if top not in FOR_ALL | {"sabtune"}:
            assert part(module) in OUTSIDE[top], f"{module} imports {name}"


@pytest.mark.parametrize("own", sorted(BACKENDS | SHARED_BY_BACKENDS))
def test_no_backend_imports_another(own: str) -> None:
    """Check what the backends and their shared modules import from `sabtune.ops`."""
    allowed = SHARED_BY_BACKENDS | {own}
    if own == "compiled":
        allowed.add("self_attention")  # the equations of the other compiled pass
    importing = [name for name in modules if f"{name}.".startswith(f"sabtune.ops.{own}.")]
    assert importing
    for module in importing:
        for name in imports(module):
            if name.startswith("sabtune.ops."):
                assert name.split(".")[2] in allowed, f"{module} imports {name}"


def loads(code: str, *, without: str = "") -> None:
    """Run `code` in a new interpreter that can't import the modules of `without`."""
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in without.split())
    subprocess.run([sys.executable, "-c", f"import sys; {blocked}{code}"], check=True)


def test_importing_sabtune_loads_neither_ray_nor_mlflow() -> None:
    loads("import sabtune; assert not {'ray', 'mlflow', 'optuna', 'torch'} & sys.modules.keys()")


def test_the_core_needs_only_pytorch() -> None:
    """torch itself needs SymPy, but only for its compiler, which training does not load."""
    loads(
        "from sabtune.training.loop import Training; from sabtune.config import *; "
        "from sabtune.models import SAB; from sabtune.tasks import Copying; "
        "import sabtune.training.evaluation, sabtune.training.checkpoint, sabtune.training.trial; "
        "train = TrainConfig(updates=2, batch_size=2); "
        "trial = TrialConfig(model=SAB.Config(hidden=4), train=train); "
        "run = RunConfig.of(task=Copying.Config(length=3, symbols=1), trial=trial, seed=0); "
        "assert len(list(Training(run))) == 1",
        without="ray mlflow optuna rich typer filelock scipy pandas numba llvmlite triton "
        "sklearn pooch requests sympy",
    )
