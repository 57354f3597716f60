"""The classes of your own code in this process, and the bundles that define them.

Every process that reads a configuration finds its classes here: the classes that a study file or a
script has imported, or else those of a bundle in one of the folders that `add_source` was given.
"""

from __future__ import annotations

import atexit
import importlib
import struct
import sys
import tempfile
import weakref
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType

import psutil

from sabtune.data import place
from sabtune.errors import ConfigError
from sabtune.parts import bundle, importing
from sabtune.parts.bundle import Bundle
from sabtune.schema import CODE, KIND
from sabtune.storage.folder import Folder

_identities: weakref.WeakKeyDictionary[type, Mapping[str, str]] = weakref.WeakKeyDictionary()
_classes: dict[tuple[str, str], type] = {}
"""The classes by import path and digest."""
_bundles: dict[str, Bundle] = {}
_sources: list[Folder] = []
_roots: dict[str, Path] = {}
"""The folders in which the bundles of `_sources` were imported, by digest."""
_cleanup = ExitStack()
atexit.register(_cleanup.close)
_lock = importing.lock


def add_source(folder: Folder) -> None:
    """Look for bundles in a folder too, such as `Store.code`."""
    with _lock:
        if folder not in _sources:
            _sources.append(folder)


def add_bundle(known: Bundle) -> None:
    """Keep a bundle, such as one that another process sent."""
    _bundles.setdefault(known.digest, known)


def find_bundle(digest: str) -> Bundle:
    """Return the bundle with a digest. Raises ConfigError if it is in none of the sources."""
    with _lock:
        for folder in () if digest in _bundles else _sources:
            found = Bundle.read(folder, digest)
            if found is not None:
                _bundles[digest] = found
                break
        if digest not in _bundles:
            places = " or ".join(map(str, _sources)) or "any store that was opened"
            raise ConfigError(f"its code {digest} isn't in {places}: open the store that has it")
        return _bundles[digest]


def write_bundles(digests: Iterable[str], folder: Folder) -> None:
    """Write the bundles with these digests to a folder, unless they are already there.

    Raises ConfigError if one is in none of the sources.
    """
    for digest in digests:
        find_bundle(digest).write(folder)


def identify(part: type) -> dict[str, str]:
    """Return the import path of a class, and the digest of its bundle if it is local.

    Raises ConfigError if a process on another machine couldn't import the class.
    """
    with _lock:
        if part not in _identities:
            _identities[part] = _identify(part)
        identity = _identities[part]
        if CODE in identity:  # of several classes of the same code, the one in use is found
            _classes[identity[KIND], identity[CODE]] = part
        return dict(identity)


def identify_all(bases: Iterable[type], modules: Container[str]) -> None:
    """Identify the subclasses that these modules define, before their files can change.

    bases: the base classes of the configurations.
    """
    pending = list(bases)
    while pending:
        part = pending.pop()
        pending += part.__subclasses__()
        if part.__module__ in modules:
            with suppress(ConfigError):  # it is refused only if a configuration uses it
                identify(part)


def _identify(part: type) -> dict[str, str]:
    module, name = part.__module__, part.__qualname__
    remedy = "define it at the top level of a module (a .py file), and import it from there"
    if module == "__main__":
        raise ConfigError(
            f"{name} is defined in a script or a notebook, which workers can't import: {remedy}"
        )
    if "<locals>" in name:
        raise ConfigError(f"{name} is defined in a function, where it can't be found: {remedy}")
    study_file = importing.study_files.get(module)
    loaded = next((m for m in importing.loaded(module) if _has(m, name, part)), None)
    if loaded is None:
        raise ConfigError(f"{module} has no {name} of this class: {remedy}")
    if study_file is not None:
        code, path = importing.bundle_of(study_file), f"{study_file.stem}:{name}"
    elif not bundle.is_local(loaded.__spec__):
        return {KIND: f"{module}:{name}"}
    else:
        assert loaded.__file__ is not None
        if _changed_since_import(loaded):
            raise ConfigError(
                f"{loaded.__file__} was changed after it was imported: reload the module with "
                "importlib.reload, or restart Python"
            )
        code, path = bundle.of_module(module, Path(loaded.__file__)), f"{module}:{name}"
    for file in code.files:
        top = file.partition("/")[0].removesuffix(".py")
        if top in sys.stdlib_module_names and file != code.study_file:
            raise ConfigError(
                f"{name} needs {file}, which has the name of a module of Python's standard "
                "library: rename it"
            )
    _bundles.setdefault(code.digest, code)
    return {KIND: path, CODE: code.digest}


def _changed_since_import(module: ModuleType) -> bool:
    """Return whether a module's file was changed after this process imported it.

    Python stores the time and the size of a file beside its compiled code, when it imports the
    file. Without compiled code, the result is False.
    """
    assert module.__file__ is not None
    try:
        header = Path(getattr(module, "__cached__", None) or "").read_bytes()[:16]
        state = Path(module.__file__).stat()
        flags, modified, size = struct.unpack("<III", header[4:])
    except (OSError, struct.error):
        return False
    stored = (int(state.st_mtime) & 0xFFFFFFFF, state.st_size & 0xFFFFFFFF)
    since_start = state.st_mtime > psutil.Process().create_time()
    return flags == 0 and since_start and stored != (modified, size)


def _has(module: ModuleType, name: str, part: type) -> bool:
    try:
        return attribute(module, name) is part
    except AttributeError:
        return False


def attribute(module: ModuleType, name: str) -> object:
    """Return a nested attribute, such as "Parity.Config". Raises AttributeError."""
    value: object = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def find(path: str, digest: str) -> type:
    """Return a class of local code by its import path and the digest of its bundle.

    Raises ConfigError if no source has the bundle, or if its code fails or lacks the class.
    """
    with _lock:
        if (path, digest) not in _classes:
            code = find_bundle(digest)
            module, _, name = path.partition(":")
            try:
                part = attribute(_import(module, code), name)
            except BaseException as problem:  # includes SystemExit: the code must not end sabtune
                if isinstance(problem, KeyboardInterrupt):
                    raise
                words = " ".join(str(problem).split())
                raise ConfigError(f"{type(problem).__name__}: {words}") from problem
            if not isinstance(part, type):
                raise ConfigError(f"{name} is no class")
            _classes[path, digest] = part
            _identities[part] = {KIND: path, CODE: digest}
        return _classes[path, digest]


def _import(module: str, code: Bundle) -> ModuleType:
    """Import a module of a bundle, and its other modules, which it may import later."""
    root = _unpacked(code)
    with place.code_only():
        return _import_from(root, module, code)


def activate(digests: Iterable[str]) -> None:
    """Make the modules of bundles importable until others are, for imports within functions."""
    with _lock:
        for digest in digests:
            if digest in _roots:
                importing.activate(_roots[digest])


def _import_from(root: Path, module: str, code: Bundle) -> ModuleType:
    if code.study_file == f"{module}.py":
        with _no_bytecode():
            imported = importing.import_file(root / code.study_file)
    else:
        with _no_bytecode(), importing.importable(root):
            imported = importlib.import_module(module)
    with _no_bytecode(), importing.importable(root):
        for path in code.files:
            if path != code.study_file:
                with suppress(Exception):  # imported only where it is never reached
                    importlib.import_module(bundle.module_name(path))
    return imported


def _unpacked(code: Bundle) -> Path:
    """Return a folder with the files of a bundle, which lasts as long as the process."""
    if code.digest not in _roots:
        folder = _cleanup.enter_context(tempfile.TemporaryDirectory(prefix="sabtune-code-"))
        _roots[code.digest] = Path(folder).resolve()
        code.copy(_roots[code.digest])
    return _roots[code.digest]


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Import modules in the block without writing compiled files beside them."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
