"""Description of the provider, for Airflow's discovery."""

from __future__ import annotations

from typing import Any

# The configuration section `[vace]`.
_CONFIG: dict[str, Any] = {
    "vace": {
        "description": "Settings of the video tab of airflow-provider-vace.",
        "options": {
            "video_roots": {
                "description": "Directories and places in stores, with commas between them, whose"
                " videos the API server hands out to users who may read the XComs of their DAG."
                " Name the connection of a store before its bucket. None by default.\n",
                "version_added": "0.1.0",
                "type": "string",
                "example": "/data/clips/, s3://aws_default@my-bucket/clips/",
                "default": "",
            },
            "task_tab": {
                "description": "Before Airflow 3.4, show the tab of a task instance's video; it then"
                " stands on the tasks of all DAGs.\n",
                "version_added": "0.1.0",
                "type": "boolean",
                "example": None,
                "default": "False",
            },
        },
    },
}

# Labels and hints of Airflow's own fields in the form of a connection.
_FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["schema", "login"],
    "relabeling": {"host": "Base URL", "password": "API key"},
    "placeholders": {
        "host": "https://gateway.example, https://api.replicate.com or https://api.pruna.ai",
        "password": "the key that the vendor gave you",
        "port": "443 for https; Airflow's Test button needs it",
    },
}

# Fields of the connection's extra, as JSON schemas.
_EXTRA_FIELDS: dict[str, Any] = {
    "backend": {
        "label": "Back-end",
        "description": "Which API is spoken; chosen by the host if empty.",
        "schema": {
            "type": ["string", "null"],
            "enum": ["gateway", "replicate", "pruna", None],
            "values_display": {
                "null": "by the host",
                "gateway": "gateway: any other Replicate-compatible API",
                "replicate": "replicate: api.replicate.com",
                "pruna": "pruna: api.pruna.ai",
            },
        },
    },
    "api_prefix": {
        "label": "API prefix",
        "description": "Path below the base URL; the back-end's own if empty.",
        "schema": {"type": ["string", "null"]},
    },
    "headers": {
        "label": "Further headers",
        "description": "For a gateway with two keys: an object such as"
        ' {"cf-aig-authorization": "Bearer KEY"}. Sent to the base URL\'s origin only.',
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "model": {
        "label": "Model",
        "description": "owner/name, or owner/name:version, for tasks that name none;"
        " prunaai/vace-14b if empty.",
        "schema": {"type": ["string", "null"]},
    },
    "version": {
        "label": "Version",
        "description": "Id of a version for tasks that name none; the latest if empty.",
        "schema": {"type": ["string", "null"]},
    },
    "input_roots": {
        "label": "Input directories",
        "description": "Local directories, with commas between them, that tasks may send"
        " files from; none if empty.",
        "schema": {"type": ["string", "null"]},
    },
    "lists": {
        "label": "Lists predictions",
        "description": "Whether GET .../predictions lists them, as Replicate does and other"
        " back-ends do not: then many waits take few requests.",
        "schema": {
            "type": ["string", "null"],
            "enum": ["true", "false", None],
            "values_display": {"null": "as the back-end does"},
        },
    },
    "timeout": {
        "label": "Time-out",
        "description": "Seconds that one request may take; 30 if empty.",
        "schema": {"type": ["number", "null"]},
    },
    "max_output_mb": {
        "label": "Largest output",
        "description": "Megabytes (of a million bytes) that one saved output may have, so"
        " that none fills a worker's disk; 256 if empty. A larger one is paid for, but not"
        " saved: raise this, and clear the task within the hour.",
        "schema": {"type": ["number", "null"]},
    },
    "verify": {
        "label": "Verify TLS",
        "description": "true, false, or the path of a CA bundle; true if empty.",
        "schema": {"type": ["string", "null"]},
    },
    "proxies": {
        "label": "Proxies",
        "description": "URL of a proxy, or an object such as"
        ' {"https": "http://proxy:3128"}; the environment\'s if empty.',
        "schema": {"type": ["string", "null"]},
    },
    "cert": {
        "label": "Client certificate",
        "description": "Path of a PEM file, or two with a comma between: certificate, key.",
        "schema": {"type": ["string", "null"]},
    },
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, by Airflow's `provider_info.schema.json`."""
    return {
        "package-name": "airflow-provider-vace",
        "name": "VACE",
        "description": "Generate video with `prunaai/vace-14b <https://replicate.com/prunaai/vace-14b>`__.",
        "integrations": [
            {
                "integration-name": "VACE",
                "external-doc-url": "https://replicate.com/prunaai/vace-14b",
                "tags": ["service"],
            }
        ],
        "operators": [
            {"integration-name": "VACE", "python-modules": ["airflow_vace.operators"]},
        ],
        "sensors": [
            {"integration-name": "VACE", "python-modules": ["airflow_vace.sensors"]},
        ],
        "hooks": [
            {"integration-name": "VACE", "python-modules": ["airflow_vace.hooks"]},
        ],
        "triggers": [
            {"integration-name": "VACE", "python-modules": ["airflow_vace.triggers"]},
        ],
        "task-decorators": [
            {"name": "vace", "class-name": "airflow_vace.decorators.vace_task"},
            {"name": "vace_batch", "class-name": "airflow_vace.decorators.vace_batch_task"},
        ],
        "config": _CONFIG,
        "extra-links": [
            "airflow_vace.links.PredictionPageLink",
            "airflow_vace.links.PredictionOutputLink",
        ],
        "connection-types": [
            {
                "connection-type": "vace",
                "hook-class-name": "airflow_vace.hooks.VaceHook",
                "hook-name": "VACE",
                "ui-field-behaviour": _FIELD_BEHAVIOUR,
                "conn-fields": _EXTRA_FIELDS,
            }
        ],
    }
