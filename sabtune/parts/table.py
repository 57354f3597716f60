"""Find parts by name: built-in ones, those of installed packages, and those of your own code.

A configuration is stored as a dict, whose key "kind" names its class:

"copying"                     a built-in part
"parity"                      a part that an installed package registers under this name, as an
                              entry point of the group sabtune.parts
"package.module:Parity.Config"  any other class of an installed package
"my_task:Parity.Config"       a class of a study file or of a local module. The key "code" holds the
                              digest of the bundle that defines it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from sabtune.errors import ConfigError
from sabtune.parts import local
from sabtune.schema import CODE, KIND, PartTable, shown, suggest

GROUP = "sabtune.parts"
"""The group of entry points by which packages register their parts."""


class OwnParts(PartTable):
    """The parts of a base class: built-in ones by name, and any others by import path.

    base: the base class of their configurations. built_in: the built-in parts by name.
    """

    def __init__(self, base: type, built_in: Mapping[str, type]):
        super().__init__(built_in)
        self.base = base

    def identify(self, part: type) -> dict[str, str]:
        if part in self.values():
            return super().identify(part)
        _check_fields(part)
        identity = local.identify(part)
        names = (name for name, point in _registered().items() if point.value == identity[KIND])
        name = None if CODE in identity else next(names, None)
        return identity if name is None else {KIND: name}

    def find(self, identity: Mapping[str, object], where: str) -> type:
        kind, code = identity.get(KIND), identity.get(CODE)
        if kind in self:
            return super().find(identity, where)
        if not isinstance(kind, str) or (":" not in kind and kind not in _registered()):
            raise ConfigError(f"{where}.{KIND} is {shown(kind)}: {suggest(str(kind), self)}")
        path = _registered()[kind].value if kind in _registered() else kind
        try:
            part = _installed(path) if code is None else local.find(path, str(code))
        except ConfigError as problem:
            raise ConfigError(
                f"{where}.{KIND} is {kind!r}, which can't be loaded: {problem}"
            ) from (problem.__cause__)
        if not isinstance(part, type) or not issubclass(part, self.base):
            raise ConfigError(f"{where}.{KIND} is {kind!r}, which is no {self.base.__qualname__}")
        return part


@functools.cache
def _registered() -> Mapping[str, EntryPoint]:
    """Return the entry points of installed packages by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


@functools.cache
def _installed(path: str) -> object:
    """Return the object with an import path, such as "package.module:Parity.Config"."""
    module, _, name = path.partition(":")
    try:
        return local.attribute(importlib.import_module(module), name)
    except Exception as problem:  # the module's own code may raise anything
        words = " ".join(str(problem).split())
        raise ConfigError(
            f"{type(problem).__name__}: {words}; install the package that has {module}"
        ) from problem


def _check_fields(part: type) -> None:
    """Raise ConfigError unless a class of configurations can be stored."""
    own = vars(part)
    annotated = own.get("__annotations__") or (
        sys.version_info >= (3, 14) and own.get("__annotate_func__")
    )
    if annotated and "__dataclass_fields__" not in own:
        raise ConfigError(
            f"{part.__qualname__} has fields but isn't a dataclass: "
            "put @dataclass(frozen=True, kw_only=True) above it"
        )
    for key in (KIND, CODE):
        if key in getattr(part, "__dataclass_fields__", {}):
            raise ConfigError(
                f"{part.__qualname__} has a field {key!r}, a name that sabtune uses: rename it"
            )
