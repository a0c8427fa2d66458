"""Runs of the operator, and failures that Airflow does not retry."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_vace.operators import VacePredictionOperator
from support.tasks import Run

MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])


def operator(**kwargs: Any) -> VacePredictionOperator:
    return VacePredictionOperator(**{"task_id": "t", "input": {"prompt": "a fox"}, **kwargs})


def run(**kwargs: Any) -> Run:
    return Run(partial(operator, **kwargs))


def waiting(**kwargs: Any) -> Run:
    return run(**{"wait_for_completion": True, **kwargs})


def failure_of(task: Run, *, same_words: bool = True) -> tuple[Exception, BaseException]:
    """Return the failure that Airflow does not retry, and the error behind it."""
    with pytest.raises(AirflowFailException) as caught:
        task.result()
    assert caught.value.__cause__ is not None
    assert (str(caught.value) == str(caught.value.__cause__)) is same_words
    return caught.value, caught.value.__cause__
