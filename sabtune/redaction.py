"""Removal of passwords and tokens from what is printed, logged or stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+[^\s'\"<>]+")
"""A URL in a text. One slash is enough, since converting to a path may have removed the other."""

PARTS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:/{1,2})(?P<rest>.*)", re.DOTALL)

SECRET = re.compile(
    r"pass(?!file)|pwd|secret|token|credential|signature|api_?-?key|access_?-?key"
    r"|^sig$|^auth$|^authorization$",
    re.IGNORECASE,
)
"""The names of URL parameters with secret values."""

PARAMETER = re.compile(
    r"(?P<name>(?:^|[?&;])[^=?&;]*)=(?P<value>[^&]+?)(?=;[^=&;]*=|&|$)", re.DOTALL
)

PATHS = ("s3:", "gs:", "file:", "sqlite:")
"""The schemes of URLs whose path may contain an @."""

MIN_SECRET_CHARACTERS = 3
"""The length of the shortest secret that is searched for. Shorter ones would match everywhere."""


def hide_password(url: str) -> str:
    """Return the URL with *** in place of its password and of secret parameters.

    In a malformed URL, everything between the first colon and the last @ counts as the password, so
    that too much is hidden rather than too little.
    """
    parts = PARTS.match(url)
    if parts is None:
        return url
    scheme, rest = parts["scheme"], parts["rest"]
    login, at, location = _split(scheme, rest)
    user, colon, _ = login.partition(":")
    if at and (colon or scheme.lower().startswith("http")):
        login = f"{user}:{HIDDEN}" if colon else HIDDEN
    return f"{scheme}{login}{at}{PARAMETER.sub(_hide_value, location)}"


def _split(scheme: str, rest: str) -> tuple[str, str, str]:
    """Split a URL without its scheme into login, "@" and location; the first two may be empty."""
    login, at, location = rest.rpartition("@")
    is_path = scheme.lower().startswith(PATHS) and "/" in login.partition(":")[0]
    is_login = ":" in login or not set("/?#") & set(login)
    return (login, at, location) if at and is_login and not is_path else ("", "", rest)


def _hide_value(parameter: re.Match[str]) -> str:
    name, text = parameter["name"], parameter[0]
    return f"{name}={HIDDEN}" if SECRET.search(unquote(name).lstrip("?&;")) else text


def secrets(url: str) -> set[str]:
    """Return the secrets of a URL, such as its password, as written, decoded and encoded."""
    return {
        text
        for secret in _raw_secrets(url)
        for text in (secret, unquote(secret), unquote_plus(secret), quote(secret, safe=""),
                     quote_plus(secret))
        if len(text) >= MIN_SECRET_CHARACTERS and text != HIDDEN
    }  # fmt: skip


def _raw_secrets(url: str) -> Iterator[str]:
    parts = PARTS.match(url)
    if parts is None:
        return
    login, at, location = _split(parts["scheme"], parts["rest"])
    user, colon, password = login.partition(":")
    if colon:
        for written in (password, unquote(password)):
            yield written
            for separator in re.finditer("[@/?#:]", written):  # where another parser may split it
                yield written[: separator.start()]
                yield written[separator.end() :]
            yield from re.split("[@/?#:]", written)
    elif at and parts["scheme"].lower().startswith("http"):
        yield user
    for parameter in PARAMETER.finditer(location):
        if _hide_value(parameter) != parameter[0]:
            yield parameter["value"]
            yield from parameter["value"].split(";")


def redact(text: str, *urls: str | None) -> str:
    """Return the text with *** in place of secrets.

    This hides the secrets of all URLs in the text, and every occurrence of the secrets of `urls`.
    """
    given = {secret for url in urls if url for secret in secrets(url)}
    for secret in sorted(given, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return URL.sub(lambda match: hide_password(match[0]), text)


def without_secrets(url: str) -> str:
    """Return the URL without its password and without secret parameters.

    A client then has to read them elsewhere, such as from ~/.pgpass.
    """
    hidden = hide_password(url)
    if hidden == url:
        return url
    base, mark, parameters = hidden.replace(f":{HIDDEN}@", "@").partition("?")
    base = base.replace(f"//{HIDDEN}@", "//")
    pairs = re.split("[&;]", parameters)
    remaining = [pair for pair in pairs if not pair.endswith(f"={HIDDEN}")]
    return base + mark * bool(remaining) + "&".join(remaining)
