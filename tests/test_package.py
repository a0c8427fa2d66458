"""The package for others: class paths, provider description, imports, wheel."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import airflow
import jsonschema
import pytest

import airflow_vace
from airflow_vace.provider_info import get_provider_info

if TYPE_CHECKING:
    from airflow_vace.emulator import Emulator

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "airflow_vace" / "core").glob("[a-z]*.py"))


def loaded_by(code: str) -> list[str]:
    """Return the modules that are loaded after running code in a new process."""
    code = f"import sys; {code}; import json; print(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules: list[str] = json.loads(found.stdout.splitlines()[-1])
    return modules


# --- rooms -----------------------------------------------------------------------------------------


def test_the_rooms_above_the_line_know_neither_airflow_nor_io() -> None:
    rooms = (*ROOMS[: ROOMS.index("core")], *(f"core.{path.stem}" for path in CORE))
    loaded = loaded_by("import " + ", ".join(f"airflow_vace.{room}" for room in rooms))
    roots = {name.split(".")[0] for name in loaded}
    assert roots.isdisjoint({"airflow", "requests", "aiohttp", "urllib3", "httpx"})


# From the bottom up; a room imports only from rooms before it.
ROOMS = (
    *("input_fields", "input_files", "plain", "redaction", "exceptions", "other_inputs", "inputs"),
    *("progress", "output", "ids", "status", "prediction"),
    *("core", "client", "observability", "connection", "video", "hooks", "storage"),
    "video_files",
    *("submission", "links", "task", "batch", "reconcile", "triggers", "operators", "sensors", "decorators"),
)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down_only(room: str) -> None:
    place = ROOT / "airflow_vace" / room
    allowed = {*ROOMS[: ROOMS.index(room)], *([room] if place.is_dir() else [])}
    for path in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow_vace."):
                used = str(node.module).split(".")[1]
                is_for_types_only = room in ("exceptions", "links") and used == "prediction"
                assert used in allowed or is_for_types_only, f"{path.name} imports {used}"


def test_discovery_imports_next_to_nothing() -> None:
    loaded = loaded_by("from airflow_vace.provider_info import get_provider_info; get_provider_info()")
    assert [name for name in loaded if name.startswith("airflow")] == [
        "airflow_vace",
        "airflow_vace.provider_info",
    ]


def test_importing_a_dag_loads_no_http_client() -> None:
    loaded = loaded_by("import airflow_vace.operators, airflow_vace.sensors")
    assert "airflow.sdk.bases.sensor" in loaded
    assert {name.split(".")[0] for name in loaded}.isdisjoint({"requests", "aiohttp", "urllib3"})


@pytest.mark.parametrize(
    "path",
    [
        "airflow_vace.operators.VacePredictionOperator",
        "airflow_vace.sensors.VacePredictionSensor",
        "airflow_vace.decorators.vace_task",
        "airflow_vace.inputs.VaceInput",
        "airflow_vace.triggers.VacePredictionTrigger",
        "airflow_vace.hooks.VaceHook",
        "airflow_vace.links.PredictionPageLink",
        "airflow_vace.links.PredictionOutputLink",
        "airflow_vace.exceptions.VaceError",
        "airflow_vace.exceptions.SubmissionUnknown",
        "airflow_vace.emulator.Emulator",
        "airflow_vace.demo.main",
        "airflow_vace.emulator.cli.main",
        "airflow_vace.reconcile.cli.main",
        "airflow_vace.provider_info.get_provider_info",
    ],
)
def test_class_paths_that_dags_and_databases_hold_do_not_move(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert getattr(import_module(module), name).__module__.startswith(module)


# --- the provider ----------------------------------------------------------------------------------


def test_airflow_accepts_the_description() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_the_description_agrees_with_the_package() -> None:
    info = get_provider_info()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert info["package-name"] == project["name"]
    (entry,) = distribution(project["name"]).entry_points.select(group="apache_airflow_provider")
    assert entry.load() is get_provider_info
    for kind in ("operators", "sensors", "hooks", "triggers"):
        for item in info[kind]:
            assert all(import_module(name) for name in item["python-modules"])
    (connection,) = info["connection-types"]
    module, _, name = connection["hook-class-name"].rpartition(".")
    hook: Any = getattr(import_module(module), name)
    assert connection["connection-type"] == hook.conn_type == "vace"
    assert connection["hook-name"] == hook.hook_name
    for path in info["extra-links"]:
        module, _, name = path.rpartition(".")
        assert getattr(import_module(module), name)


def airflow_says(*arguments: str) -> str:
    command = [sys.executable, "-m", "airflow", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_airflow_lists_the_provider_and_its_hook(airflow_db: str) -> None:
    assert airflow_db
    (line,) = [s for s in airflow_says("providers", "list", "-o", "plain").splitlines() if "vace" in s]
    assert line.startswith("airflow-provider-vace ")
    assert line.split()[-1] == airflow_vace.__version__
    hooks = airflow_says("providers", "hooks", "-o", "plain")
    (line,) = [line for line in hooks.splitlines() if line.startswith("vace ")]
    assert line.split() == [
        "vace",
        "airflow_vace.hooks.VaceHook",
        "vace_conn_id",
        "airflow-provider-vace",
        "VACE",
    ]


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("links", ["airflow_vace.links.PredictionPageLink", "airflow_vace.links.PredictionOutputLink"]),
        ("triggers", ["airflow_vace.triggers"]),
        (
            "widgets",
            [f"extra__vace__{name} " for name in get_provider_info()["connection-types"][0]["conn-fields"]],
        ),
    ],
)
def test_airflow_lists_what_the_provider_brings(airflow_db: str, what: str, names: list[str]) -> None:
    assert airflow_db
    if what == "widgets" and airflow.__version__.startswith("3.1."):
        pytest.skip("Airflow 3.1 does not draw fields from a provider's description")
    told = airflow_says("providers", what, "-o", "plain")
    assert all(name in told for name in names)


def test_airflow_knows_the_settings(airflow_db: str) -> None:
    assert airflow_db
    told = airflow_says("config", "list", "--section", "vace")
    assert "video_roots" in told
    assert "task_tab" in told


@pytest.mark.dags
def test_airflow_tests_the_connection(slow_emulator: Emulator) -> None:
    assert "Connection success" in airflow_says("connections", "test", "vace_default")
    assert {request.method for request in slow_emulator.requests} == {"GET"}


# --- the distribution ------------------------------------------------------------------------------


def test_the_wheel_holds_the_example_dags_and_the_marker_of_types(tmp_path: Path) -> None:
    command = ["uv", "build", "--wheel", "--out-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    dags = {f"airflow_vace/example_dags/{path.name}" for path in (ROOT / "dags").glob("*.py")}
    assert len(dags) >= 2
    assert dags <= set(names)
    assert "airflow_vace/py.typed" in names
    assert not [name for name in names if name.startswith(("dags/", "tests/"))]
