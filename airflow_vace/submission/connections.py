"""The connection of a record, and its comparison with the server and account of the create."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_vace.core.credentials import account_key_of
from airflow_vace.exceptions import VaceError
from airflow_vace.submission.record import Account

if TYPE_CHECKING:
    from airflow_vace.hooks import VaceHook
    from airflow_vace.submission.record import Record


def account_of(hook: VaceHook) -> Account:
    """Return the server address and the key of a hook's connection.

    :raises VaceError: if the connection is unusable
    """
    api = hook.settings.api
    return Account(origin=f"{api.base_url}{api.prefix}", key=account_key_of(api.key, api.headers))


def hook_of(record: Record, hook: VaceHook) -> VaceHook:
    """Return the hook of a record's connection; `hook` itself for the same connection id."""
    return hook if record.conn_id == hook.vace_conn_id else type(hook)(record.conn_id)


def leads_to_account_of(record: Record, hook: VaceHook) -> bool:
    """Return True if the record's connection leads to the server and account of the create.

    :param hook: the hook of this attempt's connection
    """
    try:
        return record.is_at(account_of(hook_of(record, hook)))
    except (AirflowNotFoundException, VaceError):
        # An unreadable connection proves nothing, so nobody may deny the prediction.
        return False
