"""Import a study file as a module.

The study file can import its neighbors, which are the modules in its folder.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from sabtune.data import place
from sabtune.parts import former_names
from sabtune.parts.bundle import Bundle, files_of, module_name, of_study_file

lock = threading.RLock()
"""Held while modules of a study's code are imported or may be imported."""

_neighbors: dict[Path, dict[str, ModuleType]] = {}
"""The modules that were imported from the folders of study files, by folder and name."""


study_files: dict[str, Path] = {}
"""The study files that were imported, by the names of their modules."""


class _UncachedLoader(SourceFileLoader):
    """A loader that compiles the file each time and writes no bytecode, as `python FILE` does."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def import_file(path: Path) -> ModuleType:
    """Import a Python file under a unique name, and reload the modules of its folder.

    Raises every exception that the file raises.
    """
    former_names.accept()
    path = path.resolve()
    stem = re.sub(r"\W", "_", path.stem)
    name = f"sabtune_study_{stem}_{zlib.crc32(bytes(path)):08x}"  # unique for each path
    spec = importlib.util.spec_from_file_location(
        name, path, loader=_UncachedLoader(name, str(path))
    )
    assert spec is not None
    assert spec.loader is not None
    _import_namesake(path)
    _forget(path)
    importlib.invalidate_caches()
    module = importlib.util.module_from_spec(spec)
    sys.modules[name], study_files[name] = module, path
    try:
        with importable(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Put `folder` first on `sys.path`, as `python FILE` does, while the block runs.

    Relative paths of data start there, too.

    Modules from the folders of other study files are removed from `sys.modules`, because modules
    of `folder` may have the same names.
    """
    with lock:
        neighbors = _neighbors.setdefault(folder, {})
        for other in _neighbors.keys() - {folder}:
            _unload(other)
        sys.modules.update(neighbors)
        before = set(sys.modules)
        sys.path.insert(0, str(folder))
        try:
            with place.relative_to(folder):
                yield
        finally:
            former_names.hide_package()
            with suppress(ValueError):
                sys.path.remove(str(folder))
            for name in set(sys.modules) - before:
                module = sys.modules.get(name)  # another thread may have removed it
                if module is not None and _is_in(name, folder):
                    neighbors[name] = module


def activate(folder: Path) -> None:
    """Put the modules that were imported from a folder back into `sys.modules`."""
    sys.modules.update(_neighbors.get(folder, {}))


def bundle_of(path: Path, *, whole: bool = False) -> Bundle:
    """Return the bundle of a study file, with the modules of its folder that it imports."""
    with importable(path.resolve().parent):
        return of_study_file(path, whole=whole)


def neighbors(path: Path) -> set[str]:
    """Return the names of the modules that were imported from the folder of a study file."""
    return set(_neighbors.get(path.resolve().parent, {}))


def loaded(name: str) -> Iterator[ModuleType]:
    """Yield the imported modules of this name: the present one, and those of study files."""
    modules = [sys.modules.get(name), *(found.get(name) for found in _neighbors.values())]
    yield from (module for module in modules if module is not None)


def _is_in(name: str, folder: Path) -> bool:
    """Return whether a module, or its top-level package, lies directly in `folder`."""
    spec = getattr(sys.modules.get(name.partition(".")[0]), "__spec__", None)
    if not isinstance(spec, ModuleSpec):  # MLflow puts an object with any attribute there
        return False
    places = [*(spec.submodule_search_locations or ()), spec.origin]
    return any(Path(place).parent == folder for place in places if place)


def _unload(folder: Path) -> None:
    """Remove the modules of a folder from `sys.modules`; `_neighbors` still holds them."""
    for name, module in _neighbors[folder].items():
        if sys.modules.get(name) is module:
            del sys.modules[name]


def _forget(path: Path) -> None:
    """Unload the modules that a study file imports from its folder, so that they are read again."""
    folder = path.parent
    if folder in _neighbors:
        _unload(folder)
        del _neighbors[folder]
    with importable(folder):
        names = [module_name(file) for file in files_of(path) if file != path.name]
        for name in names:
            if _is_in(name, folder):
                del sys.modules[name]


def _import_namesake(path: Path) -> None:
    """Import another module with the same name as the study file, such as `copy`, if there is one.

    Otherwise a later import of that module would load the study file.
    """
    with suppress(Exception):
        spec = importlib.util.find_spec(path.stem) if path.stem.isidentifier() else None
        if spec is not None and spec.origin != str(path):
            importlib.import_module(path.stem)
