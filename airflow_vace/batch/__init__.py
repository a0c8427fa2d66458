"""Many predictions in one task: rows of a list or a file, and the manifest."""

from __future__ import annotations

__all__ = ("read_manifest",)

from airflow_vace.batch.manifest import read_manifest
