"""Passwords and tokens are kept out of what is printed, logged or stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+[^\s'\"<>]+")
"""An address in a text, with a slash at least: a path may have swallowed the other."""

PARTS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:/{1,2})(?P<rest>.*)", re.DOTALL)

SECRET = re.compile(
    r"pass(?!file)|pwd|secret|token|credential|signature|api_?-?key|access_?-?key"
    r"|^sig$|^auth$|^authorization$",
    re.IGNORECASE,
)
"""What a parameter of a URL is called that nobody else should read."""

PARAMETER = re.compile(
    r"(?P<name>(?:^|[?&;])[^=?&;]*)=(?P<value>[^&]+?)(?=;[^=&;]*=|&|$)", re.DOTALL
)

PATHS = ("s3:", "gs:", "file:", "sqlite:")
"""Schemes of addresses that may have an @ in their path."""

SHORTEST = 3
"""Characters of a secret that is looked for in a text; fewer are found everywhere."""


def hide_password(url: str) -> str:
    """Return the URL with *** for its password and for every secret among its parameters.

    Of a malformed one, too much is hidden rather than too little: what stands between the first
    colon and the last @ is the password, whatever is in it.
    """
    parts = PARTS.match(url)
    if parts is None:
        return url
    scheme, rest = parts["scheme"], parts["rest"]
    login, at, place = _split(scheme, rest)
    user, colon, _ = login.partition(":")
    if at and (colon or scheme.lower().startswith("http")):
        login = f"{user}:{HIDDEN}" if colon else HIDDEN
    return f"{scheme}{login}{at}{PARAMETER.sub(_hide_value, place)}"


def _split(scheme: str, rest: str) -> tuple[str, str, str]:
    """Who logs in, an @, and where; the first two are empty where nobody does."""
    login, at, place = rest.rpartition("@")
    is_path = scheme.lower().startswith(PATHS) and "/" in login.partition(":")[0]
    named = ":" in login or not set("/?#") & set(login)
    return (login, at, place) if at and named and not is_path else ("", "", rest)


def _hide_value(parameter: re.Match[str]) -> str:
    name, text = parameter["name"], parameter[0]
    return f"{name}={HIDDEN}" if SECRET.search(unquote(name).lstrip("?&;")) else text


def secrets(url: str) -> set[str]:
    """Return the password and the other secrets that a URL holds, in every way they are written."""
    return {
        text
        for secret in _secrets(url)
        for text in (secret, unquote(secret), unquote_plus(secret), quote(secret, safe=""),
                     quote_plus(secret))
        if len(text) >= SHORTEST and text != HIDDEN
    }  # fmt: skip


def _secrets(url: str) -> Iterator[str]:
    parts = PARTS.match(url)
    if parts is None:
        return
    login, at, place = _split(parts["scheme"], parts["rest"])
    user, colon, password = login.partition(":")
    if colon:
        for written in (password, unquote(password)):
            yield written
            for sign in re.finditer("[@/?#:]", written):  # where others would have cut it
                yield written[: sign.start()]
                yield written[sign.end() :]
            yield from re.split("[@/?#:]", written)
    elif at and parts["scheme"].lower().startswith("http"):
        yield user
    for parameter in PARAMETER.finditer(place):
        if _hide_value(parameter) != parameter[0]:
            yield parameter["value"]
            yield from parameter["value"].split(";")


def redact(text: str, *urls: str | None) -> str:
    """Return the text without the passwords of the URLs in it, and without those of `urls`,
    wherever they stand."""
    known = {secret for url in urls if url for secret in secrets(url)}
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return URL.sub(lambda found: hide_password(found[0]), text)


def without_secrets(url: str) -> str:
    """Return the URL without its password and without every secret among its parameters.

    What it leads to then asks for them elsewhere, such as in ~/.pgpass.
    """
    hidden = hide_password(url)
    if hidden == url:
        return url
    base, mark, parameters = hidden.replace(f":{HIDDEN}@", "@").partition("?")
    base = base.replace(f"//{HIDDEN}@", "//")
    kept = [of for of in re.split("[&;]", parameters) if not of.endswith(f"={HIDDEN}")]
    return base + mark * bool(kept) + "&".join(kept)
