"""Importing a study file: a proper module, beside which its neighbors are found."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from sabtune.errors import StudyFileError
from sabtune.study import former_names

_neighbors: dict[Path, dict[str, ModuleType]] = {}
"""The modules that were imported from the folder of a study file, by folder and name."""


class _Source(SourceFileLoader):
    """Compiles the file each time, as Python does with the file that it runs."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def import_file(path: Path) -> ModuleType:
    """Import a Python file under a name of its own, and its neighbors anew.

    Raises whatever the file raises.
    """
    former_names.accept()
    path = path.resolve()
    stem = re.sub(r"\W", "_", path.stem)
    name = f"sabtune_study_{stem}_{zlib.crc32(bytes(path)):08x}"  # one for each path
    spec = importlib.util.spec_from_file_location(name, path, loader=_Source(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    _import_namesake(path)
    _forget(path.parent)
    importlib.invalidate_caches()
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with importable(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Put `folder` first on the path of imports, as `python FILE` does.

    Modules that were imported from the folders of other study files are put aside, so that one of
    the same name isn't taken for this folder's.
    """
    own = _neighbors.setdefault(folder, {})
    for other in _neighbors.keys() - {folder}:
        _put_aside(other)
    sys.modules.update(own)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))
        new = set(sys.modules) - before
        own.update({name: sys.modules[name] for name in new if _lies_in(name, folder)})


def check_alone(path: Path) -> None:
    """Raises StudyFileError if a study file that was imported can't do without its neighbors."""
    neighbors = {name.partition(".")[0] for name in _neighbors.get(path.resolve().parent, {})}
    missing = sorted(name for name in neighbors if PathFinder.find_spec(name) is None)
    if missing:
        raise StudyFileError(
            f"{path} imports {', '.join(missing)} from its own folder, and a cluster is sent the "
            "study file alone: move into it what it needs of that, or install that as a package"
        )


def _lies_in(name: str, folder: Path) -> bool:
    """Whether a module, or the package that it is of, lies directly in `folder`."""
    spec = getattr(sys.modules.get(name.partition(".")[0]), "__spec__", None)
    places = [*(spec.submodule_search_locations or ()), spec.origin] if spec else []
    return any(Path(place).parent == folder for place in places if place)


def _put_aside(folder: Path) -> None:
    for name, module in _neighbors[folder].items():
        if sys.modules.get(name) is module:
            del sys.modules[name]


def _forget(folder: Path) -> None:
    if folder in _neighbors:
        _put_aside(folder)
        del _neighbors[folder]


def _import_namesake(path: Path) -> None:
    """Import the module that bears the name of the file, such as `copy`, if there is another.

    Else an import of it from anywhere would find the study file.
    """
    with suppress(Exception):
        spec = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
        if spec is not None and spec.origin != str(path):
            importlib.import_module(path.stem)
