"""Test the docstrings of the public classes: examples that run, and every field described."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import re

import pytest

import sabtune as sab

# A search with Ray makes an `OpenStudy`. The examples of the functions, which run searches too, are
# in `test_api_search`.
ELSEWHERE = {"OpenStudy"}


READ_FILES = {"Language.Config", "Pixels.Config", "Sequences.Config"}
"""The configurations that may read files of the user."""


def public_classes() -> dict[str, type]:
    """Return the public classes and their nested configurations, by name."""
    classes = {}
    for name in sab.__all__:
        value = getattr(sab, name)
        if inspect.isclass(value) and name not in ELSEWHERE:
            classes[name] = value
            if "Config" in vars(value):
                classes[f"{name}.Config"] = vars(value)["Config"]
    return classes


CLASSES = public_classes()

DATACLASSES = {name: cls for name, cls in CLASSES.items() if dataclasses.is_dataclass(cls)}


def section(doc: str | None, name: str) -> str:
    """Return the lines of a section of a docstring, without its heading; "" if it has none."""
    found = re.search(rf"^{name}:\n((?:    .*\n?|\n)*)", inspect.cleandoc(doc or ""), re.MULTILINE)
    return found[1] if found else ""


def entries(doc: str | None, name: str) -> list[str]:
    """Return the names that a section of a docstring describes."""
    return re.findall(r"^    (\w+): \S", section(doc, name), re.MULTILINE)


def public_members(cls: type) -> list[str]:
    """Return the names of the public methods and properties that a class defines itself."""
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
    ]


def test_these_are_the_public_classes() -> None:
    assert {"Study", "Linear", "SABLayer", "SAB.Config", "Pixels.Config"} <= CLASSES.keys()
    assert CLASSES.keys() - DATACLASSES.keys() == {
        "Adding", "Copying", "FlipFlop", "GRU", "LSTM", "Language", "MQAR", "Mamba2", "MemLSTM",
        "MinGRU", "MinLSTM", "Model", "Parity", "Passkey", "Permutations", "Pixels", "Recall",
        "RelLSTM", "SAB", "SABLayer", "SLSTM", "SabtuneError", "SelectiveCopying", "SelfAttention",
        "SelfAttentionLayer", "Sequences", "Shuffled", "Source", "Stream", "SyntheticTask", "Task",
        "Transformer", "TruncatedLSTM",
    }  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_the_example_of_a_class_runs(name: str) -> None:
    text = section(CLASSES[name].__doc__, "Example")
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert example.examples
    told: list[str] = []
    assert doctest.DocTestRunner().run(example, out=told.append).failed == 0, "".join(told)


@pytest.mark.parametrize("name", DATACLASSES)
def test_a_class_describes_exactly_its_fields(name: str) -> None:
    described = entries(DATACLASSES[name].__doc__, "Args")
    fields = [field.name for field in dataclasses.fields(DATACLASSES[name])]
    assert sorted(described) == sorted(fields)


@pytest.mark.parametrize("name", sorted(DATACLASSES.keys() - {"Batch"}))
def test_a_class_names_the_error_of_wrong_fields(name: str) -> None:
    reads = ["DataError"] if name in READ_FILES else []
    assert entries(DATACLASSES[name].__doc__, "Raises") == ["ConfigError", *reads]


@pytest.mark.parametrize("name", CLASSES)
def test_the_public_members_of_a_class_have_docstrings(name: str) -> None:
    for member in public_members(CLASSES[name]):
        doc = inspect.getdoc(getattr(CLASSES[name], member))
        assert doc, member
        assert doc.split("\n\n")[0].endswith("."), member


def test_a_missing_entry_is_noticed() -> None:
    doc = inspect.cleandoc(sab.ASHA.__doc__ or "")  # as Python 3.13 stores it
    assert entries(doc, "Args") == ["grace", "reduction"]
    for changed in (doc.replace("    reduction:", "    "), doc.replace("Args:", "Fields:")):
        assert "reduction" not in entries(changed, "Args")
    assert entries("A class without sections.", "Args") == []
