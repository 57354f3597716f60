"""Bundles: the source of a study file or a module, with the local modules that it imports.

A store keeps each bundle in the folder code/DIGEST, which has the files and `code.json`:

code.json   {"format": 1, "study_file": PATH or "", "whole": bool, "files": {PATH: SHA-256}}

Local modules are Python files outside the standard library and outside installed packages. They are
found by their import statements, wherever in a file these are; the files themselves aren't run.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import json
import site
import sys
import sysconfig
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path, PurePosixPath

from sabtune.errors import StoreError
from sabtune.storage.folder import Folder

CONTENTS, FORMAT = "code.json", 1

STUDY_NAMES = {"STUDY", "space", "constraints", "BASELINES", "RIVALS"}
"""The names that a study file defines for the search. They aren't a part of a task or a model."""


@dataclass(frozen=True)
class Bundle:
    """The source of a study file or a module, with the local modules that it imports.

    files: the content of each file, by its path in the bundle, such as "helpers/text.py".
    study_file: the path of the study file; "" if the bundle has none. whole: whether the digest
    covers every byte. If not, two bundles have the same digest if they define the same parts:
    comments, blank lines, and the study file's docstring and STUDY_NAMES don't count.
    """

    files: Mapping[str, bytes]
    study_file: str = ""
    whole: bool = False

    @cached_property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the files."""
        lines = [f"{path} {self._file_digest(path)}\n" for path in sorted(self.files)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]

    def _file_digest(self, path: str) -> str:
        content = self.files[path]
        counted = content if self.whole else _code(content, path == self.study_file)
        return hashlib.sha256(counted).hexdigest()

    def write(self, folder: Folder) -> None:
        """Write the bundle to the folder DIGEST of `folder`, unless it is already there.

        Raises StoreError if the folder can't be written.
        """
        place = folder / self.digest
        if CONTENTS in place.names():
            return
        for path, content in self.files.items():
            _parent(place, path).write(PurePosixPath(path).name, content)
        digests = {path: hashlib.sha256(data).hexdigest() for path, data in self.files.items()}
        table = {"format": FORMAT, "study_file": self.study_file, "whole": self.whole}
        place.write(CONTENTS, json.dumps(table | {"files": digests}, indent=2).encode())

    def copy(self, folder: Path) -> None:
        """Write the files, without `code.json`, to a folder on this machine."""
        for path, content in self.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    @classmethod
    def read(cls, folder: Folder, digest: str) -> Bundle | None:
        """Return the bundle with this digest from the folder that holds bundles; None if missing.

        Raises StoreError if the bundle can't be read, or isn't the one that was stored.
        """
        place = folder / digest
        data = place.read(CONTENTS)
        if data is None:
            return None
        try:
            table = json.loads(data)
            files = {path: _read(place, path) for path in table["files"]}
            bundle = cls(files, table["study_file"], table["whole"])
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise StoreError(f"the code in {place} can't be read ({problem}): {_RESTORE}") from None
        if bundle.digest != digest:
            raise StoreError(f"the code in {place} was changed after it was stored: {_RESTORE}")
        return bundle


_RESTORE = "restore the folder from a copy"


def of_study_file(path: Path, *, whole: bool) -> Bundle:
    """Return the bundle of a study file that has been imported."""
    path = path.resolve()
    files = files_of(path)
    return Bundle({name: file.read_bytes() for name, file in files.items()}, path.name, whole)


def files_of(study_file: Path) -> dict[str, Path]:
    """Return a study file and the local files that it imports, by their path in a bundle."""
    path = study_file.resolve()
    return _with_imports({path.name: path}, path.parent, study_file=path.name)


def of_module(name: str, path: Path) -> Bundle:
    """Return the bundle of a local module that has been imported. path: its file."""
    folder = path.absolute().parents[name.count(".") + (path.name == "__init__.py")]
    files = _with_imports(dict(_files_of(name, folder)), folder)
    return Bundle({part: file.read_bytes() for part, file in files.items()})


def changes(before: Bundle, after: Bundle) -> list[str]:
    """Return the paths of the files that differ between two bundles, with the kind of change."""
    words = []
    for path in sorted(before.files.keys() | after.files.keys()):
        if path not in after.files:
            words.append(f"{path} (removed)")
        elif path not in before.files:
            words.append(f"{path} (added)")
        elif before._file_digest(path) != after._file_digest(path):
            words.append(path)
    return words


def is_local(spec: ModuleSpec | None) -> bool:
    """Return whether a module is a Python file outside the installed packages."""
    origin = spec.origin if spec is not None else None
    if origin is None or not origin.endswith(".py"):
        return False
    path = Path(origin).resolve()
    return not any(path.is_relative_to(folder) for folder in _installed(tuple(sys.path)))


@functools.cache
def _installed(search_path: Sequence[str]) -> Sequence[Path]:
    """Return the folders of the standard library, of installed packages and of sabtune.

    search_path: the value of `sys.path`.
    """
    paths = sysconfig.get_paths()
    folders = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    folders += [
        entry for entry in search_path if entry.endswith(("site-packages", "dist-packages"))
    ]
    return [*(Path(folder).resolve() for folder in folders), Path(__file__).resolve().parents[1]]


def _with_imports(files: dict[str, Path], folder: Path, study_file: str = "") -> dict[str, Path]:
    """Return local files and those that they import, directly or not, by their path in a bundle.

    folder: the folder that is searched first, that of the study file or of the top-level module.
    """
    files, pending = dict(files), list(files.items())
    while pending:
        path, file = pending.pop()
        module = "" if path == study_file else module_name(path)
        for name in _import_names(file, module):
            for found in _files_of(name, folder):
                if found[0] not in files:
                    files[found[0]] = found[1]
                    pending.append(found)
    return files


def _files_of(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the local files of a module and of its packages, with their paths in a bundle."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:count]), folder)
        if spec is None or not (is_local(spec) or spec.origin is None):
            return
        if spec.origin is not None:
            package = spec.submodule_search_locations is not None
            path = "/".join(parts[:count]) + ("/__init__.py" if package else ".py")
            yield path, Path(spec.origin).resolve()


def _spec(name: str, folder: Path) -> ModuleSpec | None:
    """Find a module without importing it; None if there is none."""
    top, *rest = name.split(".")
    if top == "sabtune":
        return None
    spec: ModuleSpec | None = getattr(sys.modules.get(top), "__spec__", None)
    is_gone = spec is not None and spec.has_location and not Path(str(spec.origin)).exists()
    if spec is None or is_gone:
        spec = PathFinder.find_spec(top, [str(folder), *sys.path])
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        top = f"{top}.{part}"
        spec = PathFinder.find_spec(top, list(spec.submodule_search_locations))
    return spec


def _import_names(path: Path, module: str) -> Iterator[str]:
    """Yield the absolute names that a file imports. module: the name of its module."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # imported only where it is never reached
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".") if node.level else []
            base = base[: len(base) - node.level + 1] if node.level else base
            name = ".".join([*base, *filter(None, [node.module])])
            if name:
                yield name
                yield from (f"{name}.{alias.name}" for alias in node.names if alias.name != "*")


def module_name(path: str) -> str:
    """Return the name of the module with this path in a bundle."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _parent(place: Folder, path: str) -> Folder:
    for part in PurePosixPath(path).parts[:-1]:
        place = place / part
    return place


def _read(place: Folder, path: str) -> bytes:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not path:
        raise ValueError(f"{path!r} is outside the folder")
    content = _parent(place, path).read(pure.name)
    if content is None:
        raise ValueError(f"{path} is missing")
    return content


def _code(content: bytes, is_study_file: bool) -> bytes:
    """Return the lines of a Python file that can change what its parts do."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        text = io.TextIOWrapper(io.BytesIO(content), encoding).read()
        lines, fixed = _without_comments(text)
        skipped = _study_lines(text) if is_study_file else set()
    except (SyntaxError, ValueError, tokenize.TokenError):
        return content
    kept = (
        line if number in fixed else line.rstrip()
        for number, line in enumerate(lines, 1)
        if number not in skipped and (number in fixed or line.strip())
    )
    return "\n".join(kept).encode()


def _without_comments(text: str) -> tuple[list[str], set[int]]:
    """Return the lines without comments, and the numbers of the lines that end within a string."""
    lines, fixed = text.split("\n"), set[int]()
    formatted: list[int] = []  # the rows in which f-strings start, from Python 3.12 on
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        (row, column), (last, _) = token.start, token.end
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column]
        elif tokenize.tok_name[token.type] in ("FSTRING_START", "TSTRING_START"):
            formatted.append(row)
        elif tokenize.tok_name[token.type] in ("FSTRING_END", "TSTRING_END"):
            fixed.update(range(formatted.pop(), last))
        elif token.type not in (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER):
            fixed.update(range(row, last))
    return lines, fixed


def _study_lines(text: str) -> set[int]:
    """Return the lines of a study file's docstring and of its STUDY_NAMES, from 1 up.

    What only these use, and what nothing uses, is included, and so is what runs only if the file is
    the main program. Lines of a name that the rest of the file uses are left out, and so are lines
    that have another statement.
    """
    statements = ast.parse(text).body
    skipped = [node for node in statements if _is_main_guard(node)]
    if ast.get_docstring(ast.parse(text)) is not None:
        skipped.append(statements[0])
    others = [node for node in statements if node not in skipped]
    found = True
    while found:  # what only the study's own names use, or nothing, is skipped in the next round
        named = STUDY_NAMES | _used(skipped)
        found = False
        for node in others:
            names, rest = _defined_names(node), [other for other in others if other is not node]
            is_free = names <= named or not _calls(node)
            if names and is_free and not names & _used(rest):
                skipped, others, found = [*skipped, node], rest, True
                break
    shared = {line for node in others for line in _span(node)}
    return {line for node in skipped for line in _span(node)} - shared


def _used(statements: Sequence[ast.stmt]) -> set[str]:
    """Return the names that statements read."""
    nodes = (node for statement in statements for node in ast.walk(statement))
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _calls(node: ast.stmt) -> bool:
    """Return whether a statement calls something when it runs, which may have any effect."""
    if isinstance(node, ast.FunctionDef):
        return bool(node.decorator_list)
    return any(isinstance(each, ast.Call) for each in ast.walk(node))


def _is_main_guard(node: ast.stmt) -> bool:
    """Return whether a statement is `if __name__ == "__main__":`, which no study runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def _span(node: ast.stmt) -> range:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return range(first, (node.end_lineno or node.lineno) + 1)


def _defined_names(node: ast.stmt) -> set[str]:
    """Return the names that a statement defines, if it only defines names; else an empty set."""
    match node:
        case ast.FunctionDef(name=name):
            return {name}
        case ast.Assign(targets=targets) if all(isinstance(t, ast.Name) for t in targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()
