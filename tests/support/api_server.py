"""Airflow's API server in this process, on a port of its own, with users and passwords."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A viewer may read all DAGs; `nobody` has no role.
USERS = {"viewer": "viewer-password", "nobody": "nobody-password"}


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[str]:
    """Serve Airflow's REST API from the database of the tests; yield the base URL.

    :param folder: takes the file of passwords
    """
    import uvicorn
    from airflow.api_fastapi.app import create_app, purge_cached_app

    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps(USERS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "viewer:viewer,nobody:")
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(passwords))
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a" * 64)
        purge_cached_app()
        config = uvicorn.Config(create_app(apps="core"), log_level="warning", lifespan="on")
        server = uvicorn.Server(config)
        # The socket accepts connections before the server runs, so no client comes too early.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join(30)
                purge_cached_app()
