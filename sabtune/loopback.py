"""Which requests a page on the loopback interface answers.

Such a page has no login. A web site can send it requests through the browser of the person who
reads both, or have its own name resolve to 127.0.0.1 and read the answers (DNS rebinding); so can
every program on the machine. So a page answers requests that name this machine, come from the page
itself or from no page, and read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

HOST = "127.0.0.1"

READING = frozenset({"GET", "HEAD"})

ADDRESS = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?P<port>:\d{1,5})?")
"""This machine in a Host header; through a tunnel the port is the tunnel's."""


def refusal(hosts: Sequence[str], origins: Sequence[str], *, reads: bool) -> str | None:
    """Return why a request is refused, in one line, or None if it is answered.

    hosts, origins: all Host and Origin headers that it has. reads: whether it changes nothing.
    """
    at = ADDRESS.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if at is None:
        return "refused: the request is for another host; open http://127.0.0.1 or localhost"
    for origin in origins:
        scheme, _, address = origin.partition("://")
        of = ADDRESS.fullmatch(address)
        if scheme not in ("http", "https") or of is None or of["port"] != at["port"]:
            return "refused: the request comes from another web site"
    if not reads:
        return "refused: this page only reads"
    return None
