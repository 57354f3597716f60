"""Where Ray looks for the token that lets one into a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "RAY_AUTH_TOKEN"
"""Holds the token itself, and then no file counts."""


def token_path(environment: Mapping[str, str] = os.environ) -> Path:
    """The file that holds it."""
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    return Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
