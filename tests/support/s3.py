"""An S3 server on loopback, in a separate process."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import requests

from airflow_vace import throwaway

if TYPE_CHECKING:
    from collections.abc import Iterator

_MISSING = [name for name in ("moto", "s3fs", "boto3") if importlib.util.find_spec(name) is None]
# The marks of a test against the server.
NEEDS_S3 = [
    pytest.mark.stores,
    pytest.mark.skipif("VACE_STORES" not in os.environ, reason="VACE_STORES is not set: takes a minute"),
    pytest.mark.skipif(bool(_MISSING), reason=f"the dependency group stores brings {', '.join(_MISSING)}"),
]


class S3:
    """A moto server with one bucket, `clips`; `conn_id@` is `store`.

    :param home: working directory of the process
    """

    def __init__(self, home: Path = Path("/")) -> None:
        self.home = home
        self.port = throwaway.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        extra = {
            "endpoint_url": self.url,
            "region_name": "us-east-1",
            "config_kwargs": {"signature_version": "s3v4"},
        }
        fields = {"conn_type": "aws", "login": "AKIAEXAMPLE", "password": "not-a-secret", "extra": extra}
        self.connection = json.dumps(fields)

    def __enter__(self) -> Self:
        import boto3

        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(
            command, cwd=self.home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < until, "the S3 server does not answer"
            time.sleep(0.1)
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="AKIAEXAMPLE",
            aws_secret_access_key="not-a-secret",
        )
        self.client.create_bucket(Bucket="clips")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/moto-api/", timeout=2).ok
        except requests.RequestException:
            return False

    def put(self, key: str, content: bytes) -> str:
        """Upload a file and return its address for tasks."""
        self.client.put_object(Bucket="clips", Key=key, Body=content)
        return f"s3://store@clips/{key}"

    def files(self, prefix: str = "") -> dict[str, bytes]:
        found = self.client.list_objects_v2(Bucket="clips", Prefix=prefix).get("Contents", [])
        return {item["Key"]: self.read(item["Key"]) for item in found}

    def read(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket="clips", Key=key)["Body"].read()
        return content

    def unfinished(self) -> list[str]:
        """Return the keys of multipart uploads that are neither complete nor aborted."""
        found = self.client.list_multipart_uploads(Bucket="clips").get("Uploads", [])
        return [item["Key"] for item in found]


@contextlib.contextmanager
def connected_s3(conn_id: str) -> Iterator[S3]:
    """Run a server, with a connection for it in the environment.

    :param conn_id: unique among the tests, since Airflow keeps an opened store by the id of its connection
    """
    name = f"AIRFLOW_CONN_{conn_id.upper()}"
    with S3() as server:
        os.environ[name] = server.connection
        try:
            yield server
        finally:
            del os.environ[name]
