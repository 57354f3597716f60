"""The check that decides which requests a server on the loopback interface answers.

Such a server has no login. A web site can send it requests through the user's browser, or make its
own name resolve to 127.0.0.1 and read the responses (DNS rebinding). So the server answers only
requests that name this machine as the host, have the server's own origin or none, and only read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

HOST = "127.0.0.1"

READING = frozenset({"GET", "HEAD"})

ADDRESS = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?P<port>:\d{1,5})?")
"""A Host header that names this machine. Through a tunnel, the port is that of the tunnel."""


def refusal(hosts: Sequence[str], origins: Sequence[str], *, reads: bool) -> str | None:
    """Return the reason to refuse a request, in one line, or None to answer it.

    hosts, origins: the values of all Host and Origin headers of the request. reads: whether the
    request only reads.
    """
    host = ADDRESS.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if host is None:
        return "refused: the request is for another host; open http://127.0.0.1 or localhost"
    for origin in origins:
        scheme, _, address = origin.partition("://")
        origin_host = ADDRESS.fullmatch(address)
        same = origin_host is not None and origin_host["port"] == host["port"]
        if scheme not in ("http", "https") or not same:
            return "refused: the request comes from another web site"
    if not reads:
        return "refused: this page only reads"
    return None
