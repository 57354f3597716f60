"""Typed configurations: frozen dataclasses with checked values, converted to and from plain dicts.

Checkpoints, MLflow and workers store a configuration as a dict of JSON values. An unknown key, a
missing key or a value of the wrong type raises `ConfigError`; `from_dict` names the full path of
the key. A round trip is exact: `from_dict(type(c), to_dict(c), parts) == c`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import math
import numbers
import types
import typing
from abc import ABCMeta
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union

from sabtune.errors import ConfigError

KIND, CODE = "kind", "code"
"""The keys under which a dict holds the name of its class in `Parts`, and the digest of the code
that defines the class; only a class of your own code has a digest."""

ADDED = "added"
"""The key in the metadata of a field that `added` made."""

MAX_SHOWN_CHARACTERS = 200
"""The maximum length of a value in a message, in characters."""

C = TypeVar("C", bound="Config")


class _Checked(ABCMeta):
    """The metaclass of configurations. It checks values against annotations before `__init__`."""

    def __call__(cls, *positional: Any, **values: Any) -> Any:
        where = cls.__qualname__.rpartition("<locals>.")[2]
        if positional:
            raise ConfigError(
                f"{where} has {shown(positional[0])} without a name: write name=value"
            )
        return super().__call__(**_checked(cls, values, None, where))


@dataclass(frozen=True, kw_only=True)
class Config(metaclass=_Checked):
    """The base of every configuration, keyword-only and frozen.

    Raises ConfigError for an unknown key, a missing key, or a value that is not of the annotated
    type. An int is converted to a float, a list to a tuple, and a NumPy scalar to a Python number
    where the annotation requires it.
    """


def added(default: Any) -> Any:
    """Declare a field that is stored only if its value differs from `default`.

    Use it for a field that is added to a configuration that earlier versions stored: configurations
    without it are then stored, shown and compared as before.
    """
    return field(default=default, metadata={ADDED: True})


class PartTable(Mapping[str, type]):
    """The subclasses of a base class of configurations, by name."""

    def __init__(self, parts: Mapping[str, type]):
        self._parts = dict(parts)

    def __getitem__(self, name: str) -> type:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    @contextmanager
    def including(self, name: str, part: type) -> Iterator[None]:
        """Add a class to the table, under a name that it lacks, for the duration of the block."""
        assert name not in self._parts
        self._parts[name] = part
        try:
            yield
        finally:
            del self._parts[name]

    def identify(self, part: type) -> dict[str, str]:
        """Return the keys and values that identify a class in a dict.

        Raises ConfigError if the class can't be found again by them.
        """
        for name, known in self.items():
            if part is known:
                return {KIND: name}
        raise ConfigError(f"{part.__qualname__} is in no table of parts: add it to one")

    def find(self, identity: Mapping[str, object], where: str) -> type:
        """Return the class that `identify` returned these keys and values for.

        Raises ConfigError if there is none. where: the path of the configuration in the message.
        """
        kind = identity.get(KIND)
        if not isinstance(kind, str) or kind not in self:
            raise ConfigError(f"{where}.{KIND} is {shown(kind)}: {suggest(str(kind), self)}")
        return self[kind]


Parts = Mapping[type, PartTable]
"""For each base class of configurations, the table of its subclasses."""


def check(valid: bool, name: str, value: object, wanted: str) -> None:
    """Raise ConfigError with the value and what is wanted instead, unless `valid`."""
    if not valid:
        raise ConfigError(f"{name} is {shown(value)}: give {wanted}")


def shown(value: object) -> str:
    """Return the value's `repr` on one line, truncated if it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an int with more digits than Python converts
        return "a number of thousands of digits"
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "…"


def check_whole(name: str, value: object, least: int, most: int = 2**63 - 1) -> None:
    """Raise ConfigError unless `value` is an int (not a bool) from `least` to `most`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    wanted = f"a whole number of at least {least}"
    if whole and value > most:  # type: ignore[operator]
        wanted = f"a whole number from {least} to {most}"
    check(whole and least <= value <= most, name, value, wanted)  # type: ignore[operator]


def check_lengths(name: str, lengths: Sequence[object]) -> None:
    """Raise ConfigError unless there is a length, and every length is a whole number above 0."""
    check(len(lengths) > 0, name, lengths, "at least one length")
    for length in lengths:
        check_whole(name, length, least=1)


def check_seed(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is a valid seed of every random generator."""
    check_whole(name, value, least=0, most=2**32 - 1)


def check_name(name: str, value: object, names: typing.Sequence[str]) -> None:
    """Raise ConfigError unless `value` is one of `names`."""
    check(value in names, name, value, "one of " + ", ".join(names))


def to_dict(config: Config, parts: Parts) -> dict[str, Any]:
    """Convert a configuration to JSON values.

    For an instance of a base class in `parts`, the key "kind" holds the name of its class, and the
    key "code" the digest of its code if it is your own. Raises ConfigError if the class of an
    instance can't be found again by these.
    """
    data: dict[str, Any] = {}
    for table in (table for base, table in parts.items() if isinstance(config, base)):
        data |= table.identify(type(config))
    for each in fields(config):
        value = getattr(config, each.name)
        if each.init and not (ADDED in each.metadata and value == each.default):
            data[each.name] = _plain(value, parts)
    return data


def check_storable(config: Config, parts: Parts) -> None:
    """Raise ConfigError unless a configuration is the same after it was stored and read again."""
    where = type(config).__qualname__
    base = _base(type(config), parts) or type(config)
    try:
        again: Any = from_dict(base, json.loads(json.dumps(to_dict(config, parts))), parts, where)
    except TypeError as problem:
        raise ConfigError(
            f"{where} can't be stored ({problem}): its fields may be numbers, texts, tuples and "
            "other configurations"
        ) from problem
    if again != config:
        difference = _difference(config, again, where)
        raise ConfigError(f"{difference}: annotate the field with its class, or with a tuple")


def _difference(config: Config, again: Config, where: str) -> str:
    """Return the first difference between a configuration and its copy, for a message."""
    for each in fields(config):
        before, after = getattr(config, each.name), getattr(again, each.name, None)
        if before != after:
            if isinstance(before, Config) and isinstance(after, type(before)):
                return _difference(before, after, f"{where}.{each.name}")
            return f"{where}.{each.name} is {shown(before)}, and {shown(after)} once it was stored"
    return f"{where} isn't equal to itself once it was stored"


def _base(cls: type, parts: Parts) -> type | None:
    """Return the base class in `parts` that a class derives from, or None."""
    return next((base for base in parts if issubclass(cls, base)), None)


def from_dict(cls: type[C], data: object, parts: Parts, where: str = "") -> C:
    """Build a configuration from the result of `to_dict`.

    where: the path of `data` in messages. Raises ConfigError with the path of a wrong key or value.
    """
    where = where or cls.__qualname__
    check(isinstance(data, Mapping), where, data, "a mapping of keys to values")
    assert isinstance(data, Mapping)
    values = dict(data)
    base = _base(cls, parts)
    if base is not None and (base is cls or KIND in values):
        identity = {key: values.pop(key) for key in (KIND, CODE) if key in values}
        part = parts[base].find(identity, where)
        if not issubclass(part, cls):
            problem = WrongTypeError(
                f"{where}.{KIND} is {identity[KIND]!r}, which is no {cls.__qualname__}"
            )
            problem.where, problem.wanted = where, f"a value of type {cls.__qualname__}"
            raise problem
        cls = part
    checked = _checked(cls, values, parts, where)
    return ABCMeta.__call__(cls, **checked)  # type: ignore[no-any-return]  # they are checked


def known_fields(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `data` that `cls` has fields for.

    Use this to read records that another version wrote. They may have more keys, and fields that
    were added later need a default.
    """
    return {field.name: data[field.name] for field in fields(cls) if field.name in data}


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested dict by joining keys with dots, as in {"model.k_top": 5}."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def codes(data: object) -> dict[str, str]:
    """Return the digests of the code of all own parts in the result of `to_dict`, by kind."""
    found: dict[str, str] = {}
    if isinstance(data, Mapping) and KIND in data and isinstance(data.get(CODE), str):
        found[data[KIND]] = data[CODE]
    values = data.values() if isinstance(data, Mapping) else data if isinstance(data, list) else ()
    for value in values:
        found |= codes(value)
    return found


def suggest(name: str, names: typing.Iterable[str]) -> str:
    """Return a suggestion for an unknown name: the closest valid name, or all of them."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def _checked(
    cls: type, values: Mapping[str, Any], parts: Parts | None, where: str
) -> dict[str, Any]:
    """Check and convert the values of a class's fields. Raises ConfigError if any is wrong."""
    required_by_name = _fields(cls)
    for key in values:
        if key not in required_by_name:
            raise ConfigError(f"{where} has no key {key!r}: {suggest(str(key), required_by_name)}")
    for name, required in required_by_name.items():
        if required and name not in values:
            raise ConfigError(f"{where} lacks the key {name!r}: add it")
    hints = _hints(cls)
    return {k: _typed(hints.get(k, Any), v, parts, f"{where}.{k}") for k, v in values.items()}


@functools.cache
def _fields(cls: type) -> dict[str, bool]:
    """Return the names of the fields of a class, and whether a value is required."""
    if not is_dataclass(cls):
        return {}
    unset = (MISSING, MISSING)
    return {f.name: f.init and (f.default, f.default_factory) == unset for f in fields(cls)}


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of a class and its bases, except those that cannot be evaluated."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        try:
            hints |= inspect.get_annotations(base, eval_str=True)
        except (
            NameError,
            AttributeError,
            TypeError,
        ):  # such as for a class that is defined in a function
            continue
    return hints


def _plain(value: Any, parts: Parts) -> Any:
    if isinstance(value, Config):
        return to_dict(value, parts)
    if isinstance(value, tuple):
        return [_plain(v, parts) for v in value]
    return value


class WrongTypeError(ConfigError):
    """A configuration value of the wrong type.

    where: the path of the value. wanted: what the message asks for instead.
    """

    where = wanted = ""


def _wrong_type(where: str, value: object, wanted: str) -> WrongTypeError:
    error = WrongTypeError(f"{where} is {shown(value)}: give {wanted}")
    error.where, error.wanted = where, wanted
    return error


@functools.cache
def _parts_of(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the origin and the arguments of an annotation."""
    return typing.get_origin(hint), typing.get_args(hint)


def _typed(hint: Any, value: Any, parts: Parts | None, where: str) -> Any:
    """Check and convert a value for an annotation. Raises WrongTypeError or ConfigError."""
    if hint is Any:
        return value
    if type(value) is hint and (hint is str or hint is bool):
        return value
    origin, arguments = _parts_of(hint)
    if origin in (Union, types.UnionType):
        return _union(arguments, value, parts, where)
    if origin is Literal:
        for literal in arguments:
            if isinstance(value, type(literal)) and value == literal:
                return literal
        few = len(arguments) <= 2
        wanted = (
            " or ".join(map(repr, arguments)) if few else "one of " + ", ".join(map(str, arguments))
        )
        raise _wrong_type(where, value, wanted)
    if origin is tuple:
        return _tuple(arguments, value, parts, where)
    if isinstance(hint, type) and issubclass(hint, Config):
        return _config(hint, value, parts, where)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if hint is float:
        return _float(value, where)
    if hint is int:
        return _int(value, where)
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise _wrong_type(where, value, "a mapping of keys to values")
        return dict(value)
    kind = origin or hint
    if isinstance(kind, type) and not isinstance(value, kind):
        wanted = "None" if kind is types.NoneType else f"a value of type {kind.__name__}"
        raise _wrong_type(where, value, wanted)
    return value


def _union(hints: tuple[Any, ...], value: Any, parts: Parts | None, where: str) -> Any:
    wanted, inner = [], None
    for hint in hints:
        try:
            return _typed(hint, value, parts, where)
        except WrongTypeError as problem:
            if problem.where != where:  # a value inside this one has the wrong type
                inner = inner or problem
            wanted.append(problem.wanted)
    if inner is not None:
        raise inner
    raise _wrong_type(where, value, " or ".join(wanted))


def _tuple(hints: tuple[Any, ...], value: Any, parts: Parts | None, where: str) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _wrong_type(where, value, "a list")
    if hints[1:] == (...,):
        hints = hints[:1] * len(value)
    elif len(hints) != len(value):
        raise _wrong_type(where, value, f"a list of {len(hints)}")
    return tuple(
        _typed(hint, v, parts, f"{where}[{i}]")
        for i, (hint, v) in enumerate(zip(hints, value, strict=True))
    )


def _config(cls: type[Config], value: Any, parts: Parts | None, where: str) -> Config:
    if isinstance(value, cls):
        return value
    if parts is None:
        raise _wrong_type(where, value, f"a value of type {cls.__qualname__}")
    if not isinstance(value, Mapping):
        raise _wrong_type(where, value, "a mapping of keys to values")
    return from_dict(cls, value, parts, where)


def _float(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _wrong_type(where, value, "a value of type float")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _wrong_type(where, value, "a finite number")
    return number


def _int(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        wanted = "a whole number" if isinstance(value, float) else "a value of type int"
        raise _wrong_type(where, value, wanted)
    if not -(2**63) <= value < 2**63:
        raise _wrong_type(where, value, "a number of at most 64 bits")
    return int(value)
