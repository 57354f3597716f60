"""A cluster as its YAML file describes it to `ray up`: which nodes it may have."""

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
"""Where `ray up` leaves the file on the head, for the autoscaler to read."""

MOST_BYTES = 1 << 20
MOST_VALUES = 10_000
DEEPEST = 64
"""Of a cluster file; Ray's own examples have less than a tenth of each."""

MOST_WORDS = 200
"""Characters of what is wrong with a file."""

RAYS_DEFAULT = 2
"""The most workers where a file for a cloud doesn't say."""


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """One kind of node, of which there may be from `least` to `most`; the head not counted.

    resources: what one has, such as CPU and GPU; empty where the file leaves that to Ray.
    """

    name: str
    resources: Mapping[str, float]
    least: int
    most: int
    head: bool


@dataclass(frozen=True, kw_only=True)
class ClusterFile:
    """What the file says; `content` is all of it."""

    path: Path
    name: str
    provider: str
    node_types: tuple[NodeType, ...]
    content: Mapping[str, Any]

    @property
    def together(self) -> int:
        """The most workers of all types; where the file doesn't say, as many as Ray then takes."""
        return _together(self.content)

    @classmethod
    def load(cls, path: Path) -> ClusterFile:
        """Reads the file. Raises ClusterError if it isn't there, or describes no cluster."""
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
                f"{path} describes no cluster ({shorten(words, MOST_WORDS)}): "
                "give a YAML file for `ray up`, such as cluster.yaml"
            ) from None


def _read(path: Path) -> bytes:
    """The file's content. Raises ClusterError if it can't be read, or is larger than any such."""
    try:
        at = path.expanduser()
        if at.exists() and not at.is_dir() and not at.is_file():
            raise ClusterError(f"the cluster file {path} is a device: give the path of a file")
        with at.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as problem:
        raise ClusterError(
            f"the cluster file {path} can't be read ({problem.strerror}): give the path of a "
            "YAML file for `ray up`, such as cluster.yaml"
        ) from None
    if len(content) > MOST_BYTES:
        raise ClusterError(
            f"{path} is larger than {MOST_BYTES:,} bytes: give a YAML file for `ray up`"
        )
    return content


def _parsed(path: Path, content: bytes) -> Any:
    """What the YAML says. Raises ClusterError if it is none, or would grow without bound: a few
    lines of aliases of aliases can stand for more than any memory holds."""
    try:
        loader = _Loader(content)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"it has more than {MOST_VALUES:,} values, aliases written out")
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError) as problem:
        words = " ".join(str(problem).split())
        raise ClusterError(f"{path} is no YAML: {shorten(words, MOST_WORDS)}") from None


class _Loader(yaml.SafeLoader):
    """Gives up on a document that is too deep or too long, before it is read to its end."""

    depth = values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth, self.values = self.depth + 1, self.values + 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {DEEPEST} deep")
        if self.values > MOST_VALUES:
            raise yaml.YAMLError(f"it has more than {MOST_VALUES:,} values")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node holds where every alias is written out. Raises YAMLError for one that
    holds itself, and for a key that is there twice."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # of a node that is met again below itself
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            twice = [key for key, times in keys.items() if times > 1 and key != "<<"]
            if twice:
                raise yaml.YAMLError(f"the key {twice[0]!r} is there twice{node.start_mark}")
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a name belongs")
    return value


def _together(content: Mapping[str, Any]) -> int:
    machines = content["provider"].get("worker_ips")
    return int(content.get("max_workers", RAYS_DEFAULT if machines is None else len(machines)))


def _node_types(content: Mapping[str, Any]) -> tuple[NodeType, ...]:
    """Those of the file; none where the provider is given its machines by address."""
    head, together = content.get("head_node_type"), _together(content)
    return tuple(
        NodeType(
            name=name,
            resources={kind: float(much) for kind, much in (of.get("resources") or {}).items()},
            least=int(of.get("min_workers", 0)),
            most=min(of.get("max_workers", 0 if name == head else together), together),
            head=name == head,
        )
        for name, of in (content.get("available_node_types") or {}).items()
    )
