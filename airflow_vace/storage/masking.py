"""Masking of the signatures in URLs, before Airflow or an HTTP library logs the URLs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_vace.input_files import path_text

if TYPE_CHECKING:
    from collections.abc import Iterator


def mask_signatures(value: Any) -> None:
    """Register the secrets in all URLs of a value with Airflow's masker.

    CDNs have no common name for signatures, so user info and all values of queries and fragments count as
    secrets. Airflow ignores secrets shorter than `[logging] min_length_masked_secret` (default 5).

    :param value: text, or nested containers with texts
    """
    from airflow_vace.connection import mask_secrets_in

    mask_secrets_in(_texts_in(value))


def _texts_in(value: Any) -> Iterator[str]:
    todo, seen = [value], set()
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping | list | tuple | set | frozenset) and id(item) not in seen:
            # A container may contain itself, so visit each one once.
            seen.add(id(item))
            todo.extend([*item, *item.values()] if isinstance(item, Mapping) else item)
        elif item is not None and not isinstance(item, int | float):
            # Airflow stores the text of other objects in rendered fields, so secrets in there count too.
            with suppress(Exception):
                yield path_text(item) or str(item)
