"""Checks of the files in `deploy/` without a container."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "celery/compose.yaml").read_text())
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "kubernetes/values.yaml").read_text())
DOCKERFILE = (FOLDER / "celery/Dockerfile").read_text()
PAGE = (FOLDER.parent / "docs/production.md").read_text()
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
PINNED = re.compile(r"(apache/airflow|postgres|redis):\d[\w.-]*")


def _settings() -> dict[tuple[str, str], str]:
    """Return the compose file's Airflow settings by section and option."""
    found: dict[tuple[str, str], str] = {}
    for name, value in COMPOSE["x-airflow"]["environment"].items():
        if name.startswith("AIRFLOW__"):
            _, section, option = name.lower().split("__")
            found[section, option] = str(value)
    return found


def test_each_setting_is_one_that_airflow_knows() -> None:
    from airflow.configuration import conf

    known = {
        (section, option)
        for section, parts in conf.configuration_description.items()
        for option in parts["options"]
    }
    asked = {(section, option) for section, options in VALUES["config"].items() for option in options}
    asked |= set(_settings())
    if importlib.util.find_spec("airflow.providers.celery") is None:  # its provider describes its options
        asked = {setting for setting in asked if setting[0] != "celery"}
    assert len(asked) > 12
    assert asked <= known


def test_both_files_and_the_page_have_the_same_settings() -> None:
    settings = _settings()
    for section, options in VALUES["config"].items():
        for option, value in options.items():
            assert settings[section, option] == str(value)
            assert f"`{option}`" in PAGE


def test_images_are_public_and_of_a_named_version() -> None:
    images = [service["image"] for service in SERVICES.values() if "image" in service]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    airflow = VALUES["images"]["airflow"]
    images.append(f"{airflow['repository']}:{airflow['tag']}")
    assert len(images) == 4
    assert [image for image in images if not PINNED.fullmatch(image)] == []
    assert f"apache-airflow=={VALUES['airflowVersion']}" in DOCKERFILE
    assert airflow["tag"].startswith(VALUES["airflowVersion"])


def test_files_name_each_secret_and_contain_none() -> None:
    text = (FOLDER / "celery/compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+):\?\}", text))
    example = (FOLDER / "celery/.env.example").read_text()
    assert asked == set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    assert re.findall(r"^\w+=(.+)$", example, re.MULTILINE) == []
    given = [item for service in SERVICES.values() for item in service.get("environment", {}).items()]
    keys = [(name, value) for name, value in given if name.endswith(("PASSWORD", "SECRET", "_KEY", "CONN"))]
    assert len(keys) > 10
    assert [name for name, value in keys if "${" not in value] == []


def test_on_kubernetes_keys_come_from_secrets_and_no_user_is_created() -> None:
    assert {name for name in VALUES if name.endswith("SecretName")} == {
        *("fernetKeySecretName", "jwtSecretName", "apiSecretKeySecretName")
    }
    assert VALUES["data"] == {"metadataSecretName": "airflow-database"}
    assert VALUES["createUserJob"] == {"enabled": False}
    assert all({"secretName", "secretKey"} <= set(secret) for secret in VALUES["secret"])


def test_each_service_has_its_needs_and_restarts_after_its_end() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", ())) <= set(SERVICES)
        volumes = [volume.split(":")[0] for volume in service.get("volumes", ())]
        assert {volume for volume in volumes if not volume.startswith(".")} <= set(COMPOSE["volumes"])
        assert service["restart"] == ("no" if name == "migrate" else "always")
        assert ("healthcheck" in service) is (name != "migrate")


@pytest.mark.parametrize("name", ["scheduler", "triggerer", "worker"])
def test_parts_that_must_not_stop_have_two_replicas(name: str) -> None:
    assert OURS[name]["deploy"]["replicas"] == 2
    values = VALUES["workers"]["celery"] if name == "worker" else VALUES[name]
    assert values["replicas"] == 2


def test_each_part_of_airflow_runs_with_the_shared_settings() -> None:
    commands = {service["command"] for service in OURS.values()}
    parts = {"api-server", "scheduler", "dag-processor", "triggerer", "celery worker"}
    assert commands == parts | {"db check-migrations"}
    shared = set(COMPOSE["x-airflow"]["environment"])
    for service in OURS.values():
        assert shared <= set(service["environment"])
