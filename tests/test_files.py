"""Test folders on this machine and in an object store, including failures."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from sabtune.errors import StoreError
from sabtune.storage.folder import Folder, _system
from sabtune.storage.store import Store
from tests.faults import study
from tests.forked import sabtune
from tests.objects import BUCKET, SECRET, Objects, objects


@pytest.fixture(params=["here", "s3"])
def place(request: pytest.FixtureRequest, s3: Objects, tmp_path: Path) -> Folder:
    """Return an empty folder of either kind."""
    if request.param == "s3":
        return Folder.at(f"s3://{BUCKET}/{request.node.name}")
    return Folder.at(tmp_path / "files")


def test_files_are_written_read_and_deleted(place: Folder) -> None:
    inner = place / "a" / "b"
    assert place.names() == inner.names() == []
    assert inner.read("one") is None
    inner.write("one", b"1")
    inner.write("two", b"2")
    inner.write("one", b"3")
    assert place.names() == ["a"]
    assert inner.names() == ["one", "two"]
    assert inner.times().keys() == {"one", "two"}
    assert inner.read("one") == b"3"
    inner.delete("two")
    inner.delete("two")
    assert inner.names() == ["one"]
    (place / "a").delete_all()
    assert inner.names() == []


def test_a_file_can_be_written_from_a_path(place: Folder, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    place.write("large", tmp_path / "large")
    assert place.read("large") == bytes(3_000_000)


def test_a_local_copy_is_removed_after_use(place: Folder) -> None:
    for name in ("one", "two"):
        place.write(name, name.encode())
    with place.here(("one", "three")) as some, place.here() as whole:
        assert (some / "one").read_text() == "one"
        assert not (some / "three").exists()
        assert sorted(path.name for path in whole.iterdir()) == ["one", "two"]
    assert whole.exists() == (place.path is not None)
    assert place.names() == ["one", "two"]


def test_the_check_of_a_folder_leaves_no_file(place: Folder) -> None:
    place.check()
    assert place.names() == []


def test_options_of_an_address_are_used_but_not_in_the_uri(s3: Objects) -> None:
    there = s3.url.removeprefix("http://")
    place = Folder.at(f"s3://{BUCKET}/options?endpoint_override={there}&scheme=http") / "in"
    place.write("one", b"1")
    assert place.uri == f"s3://{BUCKET}/options/in"
    assert place.name == "in"
    assert Folder.at(f"s3://{BUCKET}/options/in").names() == ["one"]


def test_workers_get_the_address_and_no_credentials(s3: Objects) -> None:
    system, _ = Folder.at(f"s3://{BUCKET}/any").storage()
    assert SECRET.encode() not in pickle.dumps(system)
    assert s3.url.removeprefix("http://").encode() in pickle.dumps(system)


def test_folders_have_addresses_of_every_form(tmp_path: Path, monkeypatch: object) -> None:
    assert Folder.at("files").path == Path.cwd() / "files"
    assert Folder.at("file:///files/all").path == Path("/files/all")
    assert Folder.at("~/files").path == Path.home() / "files"
    assert Folder.at(tmp_path).uri == tmp_path.as_uri()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ftp://host/files", "'ftp://host/files' isn't supported: give a folder"),
        ("s3:///files", "isn't supported"),
        (
            "s3://anna:s3cr3t@bucket/files",
            "'s3://anna:\\*\\*\\*@bucket/files' holds credentials: leave",
        ),
        ("s3://bucket/files?access=s3cr3t", "has the unknown option 'access': after the \\?, give"),
    ],
)
def test_an_invalid_address_is_named_with_a_remedy(address: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as raised:
        Store.at("store", address)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://nowhere/files", "there is no such bucket; create it, or correct --files"),
        (
            f"s3://{BUCKET}/files?endpoint_override=127.0.0.1:9&scheme=http",
            "nothing answers there; check that the network is up, and that AWS_ENDPOINT_URL",
        ),
        ("/proc/files", "give another folder with --files"),
    ],
)
def test_an_unusable_folder_is_one_line_before_anything_starts(
    s3: Objects, address: str, words: str, tmp_path: Path
) -> None:
    file = study(tmp_path, "nowhere", ["plain"])
    refused = sabtune("search", file, "--files", address, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stdout == "Loading nowhere.py …\n"
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"sabtune: {address} can't be ")
    assert words in line
    assert not (tmp_path / "sabtune-store" / "optuna.db").exists()


def test_a_folder_without_permission_is_one_line(
    s3: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with objects(tmp_path, {"INITIAL_NO_AUTH_ACTION_COUNT": "1"}) as closed:
        monkeypatch.setenv("AWS_ENDPOINT_URL", closed.url)
        _system.cache_clear()
        with pytest.raises(StoreError, match="access is denied; check that the machine's profile"):
            Folder.at(f"s3://{BUCKET}/files").check()
    _system.cache_clear()
