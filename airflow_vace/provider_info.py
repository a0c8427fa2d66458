"""Description of the provider, for Airflow's discovery."""

from __future__ import annotations

from typing import Any

# The configuration section `[vace]`.
_CONFIG: dict[str, Any] = {
    "vace": {
        "description": "Prices, a cap, and settings of the video tab of airflow-provider-vace.",
        "options": {
            "video_roots": {
                "description": "Directories and places in stores, with commas between them, from which the"
                " screens of Airflow's UI play videos, for users who may read the XComs of the DAG."
                " Name the connection of a store before its bucket. None by default.\n",
                "version_added": "0.1.0",
                "type": "string",
                "example": "/data/clips/, s3://aws_default@my-bucket/clips/",
                "default": "",
            },
            "prices": {
                "description": "Prices by model as JSON, for connections without prices of their own:"
                " per_run, per_second of predict_time, or both; in USD unless a currency is given. None by"
                " default.\n",
                "version_added": "0.1.0",
                "type": "string",
                "example": '{"prunaai/vace-14b": {"per_run": 0.40}}',
                "default": "",
            },
            "max_cost_per_dag_run": {
                "description": "Greatest sum of the costs of all predictions of a DAG run, in the currency of"
                " the prices; a create that would pass the sum is not sent. No limit by default.\n",
                "version_added": "0.1.0",
                "type": "string",
                "example": "25",
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
    "relabeling": {"host": "Base URL (required)", "password": "API key (required)"},
    "placeholders": {
        "host": "https://gateway.example, https://api.replicate.com or https://api.pruna.ai",
        "password": "the key of your account at the vendor",
        "port": "443 for https; Airflow's Test button needs it",
    },
}

# Fields of the connection's extra, as JSON schemas.
_EXTRA_FIELDS: dict[str, Any] = {
    "backend": {
        "label": "Back-end",
        "description": "Optional. The kind of API at the base URL. Empty: chosen by the host.",
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
        "description": "Optional. The path between base URL and /predictions, such as /v1. Empty: the usual"
        " path of the back-end.",
        "schema": {"type": ["string", "null"]},
    },
    "headers": {
        "label": "Further headers",
        "description": "Optional. For a gateway that needs a second key: a JSON object such as"
        ' {"cf-aig-authorization": "Bearer KEY"}. Only the server of the base URL gets the headers.',
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "model": {
        "label": "Model",
        "description": "Optional. The model for tasks that name none: owner/name, or owner/name:version."
        " Empty: prunaai/vace-14b.",
        "schema": {"type": ["string", "null"]},
    },
    "version": {
        "label": "Version",
        "description": "Optional. The model's version for tasks that name none. Empty: the latest one.",
        "schema": {"type": ["string", "null"]},
    },
    "input_roots": {
        "label": "Input directories",
        "description": "Optional. Directories on the workers from which tasks may send files, with commas"
        " between them. Empty: tasks send no local files.",
        "schema": {"type": ["string", "null"]},
    },
    "lists": {
        "label": "Lists predictions",
        "description": "Optional. true if GET .../predictions returns a list, so many waits take few"
        " requests. Empty: true for Replicate, false for other back-ends.",
        "schema": {
            "type": ["string", "null"],
            "enum": ["true", "false", None],
            "values_display": {"null": "as the back-end does"},
        },
    },
    "timeout": {
        "label": "Time-out",
        "description": "Optional. Seconds that one request may take. Empty: 30.",
        "schema": {"type": ["number", "null"]},
    },
    "max_output_mb": {
        "label": "Largest output",
        "description": "Optional. Greatest size of one saved file in megabytes (millions of bytes), which"
        " protects the worker's disk. Empty: 256. A larger file is paid for and not saved; raise the limit"
        " and clear the task within the hour.",
        "schema": {"type": ["number", "null"]},
    },
    "prices": {
        "label": "Prices",
        "description": 'Optional. Your prices by model, such as {"prunaai/vace-14b": {"per_run": 0.40}},'
        ' or with "per_second"; in USD unless a currency is given. Costs and caps need prices. Empty:'
        " costs are unknown.",
        "schema": {"type": ["string", "null"]},
    },
    "dry_run": {
        "label": "Dry run",
        "description": "Optional. true to submit nothing with this connection: tasks check input, files,"
        " save_to and cost, log what they would submit, and are skipped. Empty: false.",
        "schema": {
            "type": ["string", "null"],
            "enum": ["true", "false", None],
            "values_display": {"null": "no"},
        },
    },
    "verify": {
        "label": "Verify TLS",
        "description": "Optional. true, false, or the path of a file with the certificates of your authority."
        " Empty: true.",
        "schema": {"type": ["string", "null"]},
    },
    "proxies": {
        "label": "Proxies",
        "description": "Optional. URL of a proxy, or a JSON object such as"
        ' {"https": "http://proxy:3128"}. Empty: the proxy of the environment.',
        "schema": {"type": ["string", "null"]},
    },
    "cert": {
        "label": "Client certificate",
        "description": "Optional. Path of a PEM file, or two paths with a comma between: certificate, key."
        " Empty: none.",
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
