"""Public modules list their public names; all other names may change."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from airflow_vace.exceptions import VaceError

PUBLIC = {
    "decorators": {"VaceInput", "vace_task"},
    "exceptions": set(),
    "hooks": {"VaceHook"},
    "inputs": {"VaceInput"},
    "links": {"PredictionOutputLink", "PredictionPageLink"},
    "operators": {"VacePredictionOperator"},
    "prediction": {"Prediction", "PredictionStatus"},
    "sensors": {"VacePredictionSensor"},
    "triggers": {"VacePredictionStartTrigger", "VacePredictionTrigger"},
    "video_files": {"between", "extend", "inpaint", "join", "last_frame", "local_copy", "outpaint"},
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_lists_its_public_names(name: str) -> None:
    module = import_module(f"airflow_vace.{name}")
    assert set(module.__all__) >= PUBLIC[name]
    for public in module.__all__:
        assert not public.startswith("_")
        assert hasattr(module, public)


def test_every_error_is_public() -> None:
    module = import_module("airflow_vace.exceptions")
    errors = {
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, VaceError) and value.__module__ == module.__name__
    }
    assert set(module.__all__) >= errors
