"""Typed configuration: frozen dataclasses that refuse unknown keys, to and from plain dicts.

A config is written to a checkpoint, shown by MLflow and read back by a worker as a dict of plain
JSON values. Reading is strict: an unknown key, a missing one or a value of another type raises
`ConfigError` with the key's whole path, and `from_dict(type(c), to_dict(c), parts) == c`.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, Self, TypeVar, Union

from sabtune.errors import ConfigError

KIND = "kind"
"""The key that names which part of a table a dict describes."""

Parts = Mapping[type, Mapping[str, type]]
"""For each base class of configs, the table of its parts by name."""

C = TypeVar("C", bound="Config")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The base of every configuration: keyword-only, frozen, and deaf to no key."""

    def __new__(cls, **values: Any) -> Self:
        _refuse_unknown(cls, values, cls.__qualname__)
        return super().__new__(cls)


def check(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raises ConfigError, naming the value and what is wanted, unless `holds`."""
    if not holds:
        raise ConfigError(f"{name} is {value!r}: give {wanted}")


def check_whole(name: str, value: object, least: int) -> None:
    """Raises ConfigError unless `value` is an int (not a bool) of at least `least`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    check(whole and value >= least, name, value, f"a whole number of at least {least}")  # type: ignore[operator]


def check_name(name: str, value: object, known: typing.Sequence[str]) -> None:
    """Raises ConfigError unless `value` is one of the known names."""
    check(value in known, name, value, "one of " + ", ".join(known))


def to_dict(config: Config, parts: Parts) -> dict[str, Any]:
    """The config as plain JSON values; a part of a table is marked with its name under "kind"."""
    data: dict[str, Any] = {}
    for table in (table for base, table in parts.items() if isinstance(config, base)):
        data[KIND] = _kind(config, table)
    for field in fields(config):
        value = getattr(config, field.name)
        data[field.name] = _plain(value, parts)
    return data


def from_dict(cls: type[C], data: object, parts: Parts, where: str = "") -> C:
    """The config that `to_dict` wrote. Raises ConfigError with the path of the key that is off."""
    where = where or cls.__qualname__
    check(isinstance(data, Mapping), where, data, "a mapping of keys to values")
    assert isinstance(data, Mapping)
    values = dict(data)
    if cls in parts:
        cls = _part(cls, values.pop(KIND, None), parts[cls], where)
    _refuse_unknown(cls, values, where)
    missing = [
        f.name
        for f in fields(cls)
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise ConfigError(f"{where} lacks the key {missing[0]!r}: add it")
    hints = typing.get_type_hints(cls)
    return cls(**{k: _typed(hints[k], value, parts, f"{where}.{k}") for k, value in values.items()})


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as one level, keys joined by dots: {"model.k_top": 5}."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def suggest(name: str, known: typing.Iterable[str]) -> str:
    """The remedy for an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def _refuse_unknown(cls: type[Config], values: Mapping[str, Any], where: str) -> None:
    known = {f.name for f in fields(cls)} if is_dataclass(cls) else set()
    for key in values:
        if key not in known:
            raise ConfigError(f"{where} has no key {key!r}: {suggest(str(key), known)}")


def _kind(config: Config, table: Mapping[str, type]) -> str:
    for name, part in table.items():
        if type(config) is part:
            return name
    raise ConfigError(f"{type(config).__qualname__} is in no table of parts: add its line there")


def _part(base: type[C], kind: object, table: Mapping[str, type], where: str) -> type[C]:
    if not isinstance(kind, str) or kind not in table:
        raise ConfigError(f"{where}.{KIND} is {kind!r}: {suggest(str(kind), table)}")
    part = table[kind]
    assert issubclass(part, base)
    return part


def _plain(value: Any, parts: Parts) -> Any:
    if isinstance(value, Config):
        return to_dict(value, parts)
    if isinstance(value, tuple):
        return [_plain(v, parts) for v in value]
    return value


def _typed(hint: Any, value: Any, parts: Parts, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        check(value in arguments, where, value, " or ".join(map(repr, arguments)))
        return value
    if origin is tuple:
        check(isinstance(value, list | tuple), where, value, "a list")
        return tuple(_typed(arguments[0], v, parts, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        check(isinstance(value, Mapping), where, value, "a mapping of keys to values")
        return dict(value)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, parts, where)
    if isinstance(hint, type) and issubclass(hint, Config):
        return from_dict(hint, value, parts, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    check(type(value) is hint, where, value, f"a value of type {hint.__name__}")
    return value


def _one_of(hints: tuple[Any, ...], value: Any, parts: Parts, where: str) -> Any:
    problems = []
    for hint in hints:
        try:
            return _typed(hint, value, parts, where)
        except ConfigError as problem:
            problems.append(str(problem))
    raise ConfigError(problems[-1])
