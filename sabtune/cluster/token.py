"""The location of the token that Ray requires for access to a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "RAY_AUTH_TOKEN"
"""The environment variable with the token itself; it takes precedence over the file."""


def token_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the file with the token."""
    path = environment.get("RAY_AUTH_TOKEN_PATH")
    return Path(path).expanduser() if path else Path.home() / ".ray" / "auth_token"
