"""An S3 server for tests: moto on loopback, in its own process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

BUCKET = "studies"
SECRET = "s3cr3t-0f-the-tests"

KEYS = {
    "AWS_ACCESS_KEY_ID": "anna",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Objects:
    """An S3 server with one bucket."""

    url: str

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the environment variables that point clients to the server."""
        return KEYS | {"AWS_ENDPOINT_URL": self.url}

    @property
    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )

    def names(self, prefix: str = "") -> list[str]:
        """Return the keys of all objects, without folder markers."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [str(found["Key"]) for page in pages for found in page.get("Contents", [])]
        return [key for key in keys if not key.endswith("/")]

    def content(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


@contextmanager
def objects(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Objects]:
    """Start the server and create the bucket.

    settings: environment variables for moto.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "moto.log").open("w") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(
            command, env=os.environ | (settings or {}), stdout=log, stderr=log
        )
    try:
        await_port(port, process, folder / "moto.log")
        made = Objects(f"http://127.0.0.1:{port}")
        made.client.create_bucket(Bucket=BUCKET)
        yield made
    finally:
        process.terminate()
        process.wait()


def await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + 120
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < limit, log.read_text()
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
