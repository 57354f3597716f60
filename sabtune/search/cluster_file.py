"""A cluster as its YAML file describes it to `ray up`: which nodes it may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sabtune.errors import ClusterError

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves the file on the head, for the autoscaler to read."""

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
        try:
            content = yaml.safe_load(path.expanduser().read_text())
        except OSError as problem:
            raise ClusterError(
                f"the cluster file {path} can't be read ({problem.strerror}): give the path of a "
                "YAML file for `ray up`, such as cluster.yaml"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as problem:
            raise ClusterError(f"{path} is no YAML: {' '.join(str(problem).split())}") from None
        try:
            return cls(
                path=path,
                name=content["cluster_name"],
                provider=content["provider"]["type"],
                node_types=_node_types(content),
                content=content,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as problem:
            raise ClusterError(
                f"{path} describes no cluster ({type(problem).__name__}: {problem}): "
                "give a YAML file for `ray up`, such as cluster.yaml"
            ) from None


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
            least=of.get("min_workers", 0),
            most=min(of.get("max_workers", 0 if name == head else together), together),
            head=name == head,
        )
        for name, of in (content.get("available_node_types") or {}).items()
    )
