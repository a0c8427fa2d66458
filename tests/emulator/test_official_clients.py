"""The vendor's own clients live on the emulator, over TLS: a table of client and action."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_vace.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parent / "clients"
ACTIONS = {"create", "progress", "wait", "list", "cancel", "run", "files", "models", "refusals"}
NODE_MODULES, PYTHON2 = "VACE_NODE_MODULES", "VACE_PYTHON2"


pytestmark = pytest.mark.clients


def needs(variable: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(variable not in os.environ, reason=f"{variable} is not set")


CLIENTS = [
    pytest.param(sys.executable, "python1.py", id="Python 1.x"),
    pytest.param(os.environ.get(PYTHON2, ""), "python2.py", id="Python 2.x", marks=needs(PYTHON2)),
    pytest.param("node", "javascript.mjs", id="JavaScript", marks=needs(NODE_MODULES)),
]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    # Slow enough for a client on a busy machine to see progress.
    with Emulator(time_scale=0.06, tls=True) as emulator:
        yield emulator


@pytest.mark.parametrize(("interpreter", "program"), CLIENTS)
def test_an_official_client_lives_on_the_emulator(
    emulator: Emulator, interpreter: str, program: str, request: pytest.FixtureRequest
) -> None:
    trusted = dict.fromkeys(("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"), str(emulator.ca_file))
    # Another version of the package must not come from this environment.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [interpreter, str(PROGRAMS / program), emulator.url, emulator.api_key],
        env=environment | trusted,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, str] = json.loads(ended.stdout)
    client = request.node.callspec.id
    for action, verdict in found.items():
        print(f"{client:12} {action:16} {verdict}")
    assert set(found) >= ACTIONS
    assert {action: verdict for action, verdict in found.items() if verdict != "pass"} == {}
