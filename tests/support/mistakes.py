"""Mistakes of new users: how each is made, and the message, the bill and the retry that follow."""

from __future__ import annotations

import json
import logging
import re
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_vace.hooks import VaceHook
from airflow_vace.operators import VaceBatchOperator, VacePredictionOperator
from airflow_vace.sensors import VacePredictionSensor
from support.tasks import HAS_STORE, Run, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pytest

    from airflow_vace.emulator import Emulator
    from airflow_vace.emulator.middleware import SeenRequest

# At DAG parsing; in a task that Airflow does not retry, or retries; a warning in the log of a task that goes
# on; or the answer of a program.
Outcome = Literal["import error", "fails", "retries", "warns", "answers"]

_RIDDLES = re.compile(
    r"\bmend\b|look into|nobody knows|leave it out\b.*leave it out|object has no attribute|not subscriptable"
    r"|unhashable|unexpected keyword|Traceback",
    re.IGNORECASE,
)
_WARNING = re.compile(r"^.*\[warning *\] (.*?)(?: +\[[\w.]+\].*)?$", re.MULTILINE)
# Airflow's warning of a call of `execute` by a test.
_OUTSIDE = "cannot be called outside of the Task Runner"
# A key that no message may contain.
SECRET = "secret-key-of-a-test"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One row of the table.

    :param id: the mistake in words
    :param make: makes the mistake by a real call; an answer of a program is its return value
    :param says: texts that the message must contain
    :param outcome: what Airflow does next
    :param posts: number of creates that the server sees
    :param billed: number of predictions on the server's bill
    """

    id: str
    make: Callable[[Scene], object]
    says: tuple[str, ...]
    outcome: Outcome = "fails"
    posts: int = 0
    billed: int = 0


def row(
    mistake: str,
    make: Callable[[Scene], object],
    *says: str,
    outcome: Outcome = "fails",
    posts: int = 0,
    billed: int = 0,
) -> Mistake:
    """Return a row of the table."""
    return Mistake(id=mistake, make=make, says=says, outcome=outcome, posts=posts, billed=billed)


class Scene:
    """A user's Airflow and its vendor, without a database.

    :param server: the vendor, which Airflow knows as `vace_default`
    :param folder: an empty directory
    """

    def __init__(
        self,
        server: Emulator,
        folder: Path,
        patch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.server = server
        self.folder = folder
        self.patch = patch
        self._caplog = caplog
        self._capsys = capsys
        self._is_running = False
        caplog.set_level(logging.WARNING)
        self.connect()

    @property
    def creates(self) -> list[SeenRequest]:
        """The creates that the server has seen."""
        return [
            seen for seen in self.server.requests if seen.method == "POST" and "/predictions" in seen.path
        ]

    def connect(self, extra: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Change members of the connection's extra, and other fields of the connection."""
        known = json.loads(self.server.connection_to(**{"timeout": 3, **(extra or {})}))
        self.connect_as(json.dumps({**known, **fields}))

    def connect_as(self, connection: str) -> None:
        """Set the connection to a JSON or a URI."""
        self.patch.setenv("AIRFLOW_CONN_VACE_DEFAULT", connection)

    def submit(self, **kwargs: Any) -> Any:
        """Run an operator that submits."""
        return self.run(
            lambda: VacePredictionOperator(**{"task_id": "t", "input": {"prompt": "a fox"}, **kwargs})
        )

    def video(self, **kwargs: Any) -> Any:
        """Run an operator that waits for the video."""
        return self.submit(**{"wait_for_completion": True, **kwargs})

    def batch(self, **kwargs: Any) -> Any:
        """Run a batch."""
        given = {"task_id": "t", "inputs": ["a fox"], "save_to": f"{self.folder}/clips/", **kwargs}
        return self.run(lambda: VaceBatchOperator(**given))

    def sense(self, prediction: Any, **kwargs: Any) -> Any:
        """Run a sensor."""
        return self.run(lambda: VacePredictionSensor(task_id="t", prediction=prediction, **kwargs))

    def run(self, make: Callable[[], Any]) -> Any:
        """Run a task in a DAG as Airflow does: parsing, rendering, execution."""
        with DAG("d", schedule=None):
            task = make()
        self._is_running = True
        # Before Airflow 3.3 there is no store.
        attempts = Run(lambda: task, Store() if HAS_STORE else None)
        attempts.context |= {"params": {}, "dag": task.dag, "task": task}
        attempts.ti.xcom_pull = lambda **_: None  # type: ignore[method-assign]
        task.render_template_fields(attempts.context)
        return attempts.result()

    def test_connection(self) -> str:
        """Press the button *Test* of the connection's form; return the message."""
        is_good, message = VaceHook().test_connection()
        return f"{'Success' if is_good else 'Failure'}: {message}"

    def command(self, main: Callable[[list[str]], object], *argv: str) -> str:
        """Run a program of the package; return the lines for a person."""
        with redirect_stdout(StringIO()) as output, redirect_stderr(output), suppress(SystemExit):
            main(list(argv))
        return output.getvalue().strip()

    def message_of(self, mistake: Mistake) -> tuple[str, str]:
        """Make a mistake; return the message and the outcome."""
        try:
            answer = mistake.make(self)
        except AirflowFailException as error:
            return str(error), "fails"
        except Exception as error:  # noqa: BLE001 - a bad message may come with any error
            return str(error), "retries" if self._is_running else "import error"
        if isinstance(answer, str):
            return answer, "answers"
        lines = [record.getMessage() for record in self._caplog.records if record.levelno >= logging.WARNING]
        # Airflow's own loggers write to the standard output.
        lines += _WARNING.findall(self._capsys.readouterr().out)
        return "\n".join(line for line in dict.fromkeys(lines) if _OUTSIDE not in line), "warns"


def check(mistake: Mistake, scene: Scene) -> tuple[str, str]:
    """Make a mistake, and check the message, the bill and the outcome; return message and outcome."""
    message, outcome = scene.message_of(mistake)
    missing = [text for text in mistake.says if text.lower() not in message.lower()]
    assert not missing, f"{missing} is not in: {message}"
    assert outcome == mistake.outcome, message
    assert not _RIDDLES.search(message), message
    assert scene.server.api_key not in message
    assert SECRET not in message
    assert len(scene.creates) == mistake.posts, message
    assert len(scene.server.bill["predictions"]) == mistake.billed, message
    return message, outcome
