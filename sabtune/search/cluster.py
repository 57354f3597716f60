"""Ray: started, asked what it has, and kept quiet."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray


class _Log(logging.FileHandler):
    """What can't be written, as on a full disk, is lost in silence: Python would tell at length."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


@contextmanager
def own_ray(log: Path) -> Iterator[None]:
    """A Ray of our own on this machine, on loopback, quiet: what it logs goes to the file `log`."""
    logger = logging.getLogger("ray")
    handler = _Log(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    logger.handlers = [handler]
    try:
        yield
    finally:
        ray.shutdown()
        logger.handlers = []
        handler.close()
