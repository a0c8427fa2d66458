"""Partition keys of asset events (Airflow 3.3+)."""

from __future__ import annotations

from typing import Any

from airflow_vace.plain import is_absent

# The length of the column in Airflow's database.
_MAX_LENGTH = 250


def add_partition(event: Any, key: Any, log: Any) -> None:
    """Give an asset event a partition key; a problem is logged, because the video is paid and saved.

    :param event: Airflow's accessor of an event, as in `outlet_events[asset]`
    :param key: rendered parameter of the task; nothing happens without a key
    """
    if is_absent(key) or not str(key).strip():
        return
    text = str(key).strip()
    add = getattr(event, "add_partitions", None)
    if add is None:
        log.warning("partition_key needs Airflow 3.3: the asset event has no partition")
    elif len(text) > _MAX_LENGTH:
        log.warning("The asset event has no partition: partition_key is longer than %d", _MAX_LENGTH)
    else:
        add(text)
