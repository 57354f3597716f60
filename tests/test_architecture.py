"""Test that docs/architecture.md agrees with the imports in sabtune/."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from tests.doc_blocks import block
from tests.test_layers import imports, modules

PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"

Graph = dict[str, set[str]]
"""For each node, the nodes that it imports."""


def package_part(module: str) -> str:
    """Return the folder or file below sabtune/ that a module belongs to; "" for sabtune itself."""
    return module.removeprefix("sabtune").removeprefix(".").partition(".")[0]


@cache
def imported_parts() -> Graph:
    """Return every part of sabtune/ and the other parts that it imports."""
    graph: Graph = {package_part(module): set() for module in modules}
    for module in modules:
        for name in imports(module):
            if name.split(".")[0] == "sabtune" and package_part(name) != package_part(module):
                graph[package_part(module)].add(package_part(name))
    del graph[""]
    return {part: imported - {""} for part, imported in graph.items()}


def diagram() -> tuple[Graph, dict[str, list[str]]]:
    """Return the arrows of the page's diagram, and the parts that each node stands for."""
    lines = block("architecture.md", "flowchart TD").splitlines()[1:]
    arrows: Graph = {}
    parts: dict[str, list[str]] = {}
    for line in lines:
        ends = []
        for text in line.split("-->"):
            node = re.fullmatch(r'(\w+)(?:\["(.*)"\])?', text.strip())
            assert node is not None, line
            name, label = node.groups()
            arrows.setdefault(name, set())
            if label is not None:
                assert name not in parts, line
                parts[name] = label.split(", ")
            ends.append(name)
        assert len(ends) <= 2, line
        if len(ends) == 2:
            assert ends[1] not in arrows[ends[0]], f"twice: {line}"
            arrows[ends[0]].add(ends[1])
    return arrows, {name: parts.get(name, [name]) for name in arrows}


def reachable(graph: Graph, start: str) -> set[str]:
    """Return every node that a path leads to from `start`."""
    nodes: set[str] = set()
    waiting = [start]
    while waiting:
        following = graph[waiting.pop()] - nodes
        nodes |= following
        waiting += following
    return nodes


def reduced(graph: Graph) -> Graph:
    """Return the transitive reduction of a graph without cycles."""
    return {
        node: {
            end for end in ends if not any(end in reachable(graph, other) for other in ends - {end})
        }
        for node, ends in graph.items()
    }


def test_the_diagram_has_every_part_once() -> None:
    _, parts = diagram()
    shown = [part for group in parts.values() for part in group]
    assert sorted(shown) == sorted(imported_parts())


def test_the_arrows_are_the_imports() -> None:
    arrows, parts = diagram()
    node_of = {part: node for node, group in parts.items() for part in group}
    graph: Graph = {node: set() for node in parts}
    for part, imported in imported_parts().items():
        graph[node_of[part]] |= {node_of[other] for other in imported} - {node_of[part]}
    assert all(node not in reachable(graph, node) for node in graph)
    assert arrows == reduced(graph)


def test_the_table_lists_every_part_after_those_that_it_imports() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    graph = imported_parts()
    assert sorted(listed) == sorted(graph)
    for row, part in enumerate(listed):
        assert graph[part] <= set(listed[:row]), part


def test_the_files_that_the_page_names_exist() -> None:
    root = PAGE.parent.parent
    paths = re.findall(r"`([\w/]+/\w+\.py)`", PAGE.read_text())
    assert len(paths) > 20
    for path in paths:
        assert (root / path).exists() or (root / "sabtune" / path).exists(), path
