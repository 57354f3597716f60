"""Test that no password or token in an address is printed, however odd the address."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from sabtune import cli
from sabtune.cli import commands
from sabtune.redaction import hide_password, redact
from sabtune.storage.store import Store
from sabtune.tracking import mlflow_client

HIDDEN = "N0t-Seen"

ADDRESSES = [
    f"postgresql://me:{HIDDEN}@host:5432/db",
    f"postgresql://me:a@{HIDDEN}@host/db",
    f"postgresql://me:a/{HIDDEN}@host/db",
    f"postgresql://me:a?{HIDDEN}@host/db",
    f"postgresql://me:a:{HIDDEN}:b@host/db",
    f"postgresql://me:#{HIDDEN}@host/db?x=y@z",
    f"postgresql://me:%40{HIDDEN}%2F@host/db",
    f"postgresql+psycopg://me:{HIDDEN}@/db?host=/run",
    f"postgresql://host/db?user=me&password={HIDDEN}",
    f"postgresql://host/db?user=me@x&password={HIDDEN}&sslmode=require",
    f"postgresql://host:1/db?user=me@x&password={HIDDEN}",
    f"postgresql://host/db?sslpassword={HIDDEN}",
    f"postgresql://host/db?pass%77ord={HIDDEN}",
    f"postgresql://host/db?PASSWORD=a;{HIDDEN}&x=1",
    f"postgresql://host/db?x=1;password={HIDDEN}",
    f"postgresql://me:{HIDDEN}@[::1]:5432/db",
    f"postgresql:///me:{HIDDEN}@host/db",
    f"postgresql:/me:{HIDDEN}@host/db",
    f"postgresql://:{HIDDEN}@host",
    f"mysql://me:{HIDDEN}@@host",
    f"http://me:{HIDDEN}@host:5000",
    f"https://{HIDDEN}@host",
    f"https://host/?access_token={HIDDEN}",
    f"s3://KEY:{HIDDEN}@bucket/prefix",
    f"sqlite:////tmp/x.db?key=1&password={HIDDEN}",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_password_is_never_shown(address: str) -> None:
    assert HIDDEN not in hide_password(address)
    assert "***" in hide_password(address)
    assert HIDDEN not in redact(f"({address}) fails: no such host {HIDDEN}%2F@x", address)
    assert HIDDEN not in redact(f"there is no store at /home/me/{address}: give another")
    assert HIDDEN not in str(commands.location_values(address, None, address))
    assert HIDDEN not in mlflow_client.describe(OSError(f"{address}: {HIDDEN}"), address)
    assert HIDDEN not in mlflow_client.shown(address)
    if address.startswith("postgresql://"):
        assert HIDDEN not in Store(Path("/"), database=address).shown


@pytest.mark.parametrize(
    "address",
    ["postgresql://me@host:5432/db?sslmode=require", "sqlite:////tmp/a:b@c/optuna.db",
     "s3://bucket/a@b?region=eu", "http://host:5000/", "models:/copying@champion",
     "/tmp/odd:place@here", "file:///a:b@c", "postgresql://host/db?passfile=/home/me/.pgpass", ""],
)  # fmt: skip
def test_addresses_without_secrets_are_unchanged(address: str) -> None:
    assert hide_password(address) == address
    assert redact(f"see {address} there", address) == f"see {address} there"


def test_the_password_is_what_sqlalchemy_parses_as_one() -> None:
    for password in ("simple", "per%25cent", "a:b", "%40at%2F"):
        url = f"postgresql://me:{password}@host/db"
        assert hide_password(url) == make_url(url).render_as_string()


def test_a_decoded_password_is_hidden_in_messages() -> None:
    url = "postgresql://me:p%40ss%2Fword@host/db"
    for written in ("p@ss/word", "p%40ss%2Fword", "p%40ss/word".replace("/", "%2F")):
        assert redact(f'failed for "{written}"', url) == 'failed for "***"'


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (("status", "x", "--store", f"postgresql://me:a@{HIDDEN}/db@localhost:1/db"), {}),
        (("status", "x", "--store", f"mysql://me:{HIDDEN}@h/db"), {}),
        (("status", "x", f"--store=postgresql:/me:{HIDDEN}@h/db"), {}),
        (("report", "x", "--files", f"ftp://me@{HIDDEN}:{HIDDEN}@h/db"), {}),
        (("status", "x"), {"SABTUNE_FILES": f"ftp://h/db?secret={HIDDEN}"}),
    ],
)
def test_error_messages_hide_the_password(
    arguments: tuple[str, ...],
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["sabtune", *arguments])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        sys.exit(cli.run())
    shown = capsys.readouterr()
    assert stopped.value.code == 2
    assert shown.err.count("\n") == 1
    assert HIDDEN not in shown.err + shown.out


def test_redaction_imports_no_heavy_library() -> None:
    code = "import sys, sabtune.redaction; assert not {'sqlalchemy', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
