"""The nodes of a cluster, read from its YAML file for `ray up`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml

from sabtune.errors import ClusterError

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""The path on the head where `ray up` stores the file for the autoscaler."""

MAX_BYTES = 1 << 20
MAX_VALUES = 10_000
MAX_LEVELS = 64
"""Limits of a cluster file; Ray's own examples have less than a tenth of each."""

PROBLEM_CHARACTERS = 200
"""The maximum length of the problem in an error message, in characters."""

DEFAULT_WORKERS = 2
"""The largest number of workers if a file for a cloud doesn't state it."""


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """A node type of a cluster file.

    resources: the resources of a node, such as CPU and GPU; empty if the file leaves them to Ray.
    least, most: the minimum and maximum number of nodes of this type, without the head. head:
    whether the head is of this type.
    """

    name: str
    resources: Mapping[str, float]
    least: int
    most: int
    head: bool


@dataclass(frozen=True, kw_only=True)
class ClusterFile:
    """A cluster file.

    name: the cluster's name. provider: the provider's type, such as "aws" or "local". content: the
    whole parsed file.
    """

    path: Path
    name: str
    provider: str
    node_types: tuple[NodeType, ...]
    content: Mapping[str, Any]

    @property
    def most_workers(self) -> int:
        """The maximum number of workers of all types together; Ray's default if it isn't stated."""
        return _most_workers(self.content)

    @classmethod
    def load(cls, path: Path) -> ClusterFile:
        """Read the file at a path.

        Raises ClusterError if the file can't be read or describes no cluster.
        """
        content = _parsed(path, _read(path))
        try:
            return cls(
                path=path,
                name=_text(content["cluster_name"]),
                provider=_text(content["provider"]["type"]),
                node_types=_node_types(content),
                content=content,
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as problem:
            words = f"{type(problem).__name__}: {problem}"
            raise ClusterError(
                f"{path} describes no cluster ({shorten(words, PROBLEM_CHARACTERS)}): "
                "give a YAML file for `ray up`, such as cluster.yaml"
            ) from None


def _read(path: Path) -> bytes:
    """Return the content of a file. Raises ClusterError if it can't be read or is too large."""
    try:
        expanded = path.expanduser()
        if expanded.exists() and not expanded.is_dir() and not expanded.is_file():
            raise ClusterError(f"the cluster file {path} is a device: give the path of a file")
        with expanded.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as problem:
        raise ClusterError(
            f"the cluster file {path} can't be read ({problem.strerror}): give the path of a "
            "YAML file for `ray up`, such as cluster.yaml"
        ) from None
    if len(content) > MAX_BYTES:
        raise ClusterError(
            f"{path} is larger than {MAX_BYTES:,} bytes: give a YAML file for `ray up`"
        )
    return content


def _parsed(path: Path, content: bytes) -> Any:
    """Return the parsed YAML.

    Raises ClusterError if it is not valid or has too many values. Every alias counts as often as it
    is used, because a few lines of nested aliases can expand to more than any memory holds.
    """
    try:
        loader = _Loader(content)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"it has more than {MAX_VALUES:,} values, aliases written out")
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError) as problem:
        words = " ".join(str(problem).split())
        raise ClusterError(
            f"{path} is not valid YAML: {shorten(words, PROBLEM_CHARACTERS)}"
        ) from None


class _Loader(yaml.SafeLoader):
    """A loader that stops early at a document that is nested too deeply or has too many values."""

    depth = values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth, self.values = self.depth + 1, self.values + 1
        if self.depth > MAX_LEVELS:
            raise yaml.YAMLError(f"it is nested more than {MAX_LEVELS} deep")
        if self.values > MAX_VALUES:
            raise yaml.YAMLError(f"it has more than {MAX_VALUES:,} values")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of values of a node with every alias written out.

    sizes: the sizes of nodes that were counted before, by id. A node that contains itself counts as
    more than MAX_VALUES. Raises YAMLError for a duplicate key.
    """
    if id(node) not in sizes:
        sizes[id(node)] = MAX_VALUES + 1  # in case the node contains itself
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            duplicates = [key for key, count in keys.items() if count > 1 and key != "<<"]
            if duplicates:
                raise yaml.YAMLError(f"the key {duplicates[0]!r} is there twice{node.start_mark}")
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(node)]


def _text(value: Any) -> str:
    """Return a value that must be text. Raises TypeError if it is not."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of a name")
    return value


def _most_workers(content: Mapping[str, Any]) -> int:
    machines = content["provider"].get("worker_ips")
    return int(content.get("max_workers", DEFAULT_WORKERS if machines is None else len(machines)))


def _node_types(content: Mapping[str, Any]) -> tuple[NodeType, ...]:
    """Return the node types of a file; none if the file lists machines by address."""
    head, workers = content.get("head_node_type"), _most_workers(content)
    return tuple(
        NodeType(
            name=name,
            resources={
                resource: float(amount)
                for resource, amount in (node_type.get("resources") or {}).items()
            },
            least=int(node_type.get("min_workers", 0)),
            most=min(node_type.get("max_workers", 0 if name == head else workers), workers),
            head=name == head,
        )
        for name, node_type in (content.get("available_node_types") or {}).items()
    )
