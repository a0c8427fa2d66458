"""Construction of places from the text or path object that a DAG author gives."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_vace.exceptions import VaceInputError, VaceTransportError
from airflow_vace.input_files import is_path, path_text
from airflow_vace.storage.errors import describe_error
from airflow_vace.storage.local import LocalFile
from airflow_vace.storage.place import Place, unusable
from airflow_vace.storage.store import StoreFile, protocols_of


def place_of(value: object, field: str, remedy: str = "") -> Place:
    """Return the local file, or the file in a store, that a user names.

    :param value: text, or any path object; a text with a scheme other than `file` names a store, and a name
        before `@` its Airflow connection
    :param field: name of the user's argument, for errors
    :param remedy: usable paths, for errors (default: examples of directories)
    :raises VaceInputError: if the value is no usable path, or Airflow knows no such store or connection
    :raises VaceTransportError: if the store can't be opened at the moment
    """
    text = path_text(value)
    if text is None:
        raise unusable(field, value, "is no path", remedy)
    if "\0" in text:
        raise unusable(field, value, "contains a NUL character", remedy)
    scheme, has_scheme, rest = text.partition("://")
    if not has_scheme or scheme.lower() == "file":
        # Airflow's own ObjectStoragePath decodes no percent signs either, so both name the same file.
        path = Path(rest.removeprefix("localhost") if has_scheme else text)
        # Unknown users have no home; the text then stays relative and is refused below.
        with contextlib.suppress(RuntimeError):
            path = path.expanduser()
        if not path.is_absolute():
            raise unusable(field, value, "is not absolute", remedy)
        return LocalFile(path)
    if not is_path(text):
        raise unusable(field, value, "is no path", remedy)
    # fsspec would take the first directory for the bucket, so an empty host is an error.
    if not urlsplit(text).netloc.rpartition("@")[2]:
        raise unusable(field, value, "names no bucket", remedy)
    return _place_in_store(text, field)


def existing_place_of(text: str, field: str, remedy: str = "") -> Place:
    """Return the place of an input, see :func:`place_of`.

    A local address may be percent-encoded, as other programs and earlier releases write addresses; a file
    with percent signs in its name has precedence.
    """
    place = place_of(text, field, remedy)
    if not isinstance(place, LocalFile) or "%" not in text or place.path.exists():
        return place
    decoded = Path(unquote(str(place.path)))
    return LocalFile(decoded) if decoded.exists() else place


def _place_in_store(text: str, field: str) -> Place:
    scheme, _, rest = text.partition("://")
    host, _, tail = rest.partition("/")
    conn_id, _, bucket = host.rpartition("@")
    shown = f"{scheme}://{bucket}/{tail}"
    fs, path = _open_store(text, conn_id, shown, field)
    # Schemes such as `local://` reach this machine's disk, so the rules for local files apply.
    if "file" not in protocols_of(fs):
        return StoreFile(shown, fs, path)
    if bucket:
        raise unusable(field, shown, "is not absolute")
    return LocalFile(Path(path))


def _open_store(text: str, conn_id: str, shown: str, field: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path inside."""
    from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook
    from airflow.sdk import ObjectStoragePath

    try:
        found = ObjectStoragePath(text)
        if conn_id:
            # Some stores fall back to anonymous access if the connection is missing, so check first.
            BaseHook.get_connection(conn_id)
        return found.fs, str(found.path)
    except AirflowNotFoundException as error:
        remedy = "add the connection, or correct its name before the @"
        raise VaceInputError(
            f"{field} is {shown}: {error}; {remedy}. Nothing was sent.", field=field, remedy=remedy
        ) from error
    except (ValueError, ImportError) as error:
        remedy = (
            "install Airflow's provider of the store, such as 'apache-airflow-providers-amazon[s3fs]' for"
            " s3://, apache-airflow-providers-google for gs://, or use a directory such as /data/clips/"
        )
        raise unusable(field, shown, f"can't be opened here ({error})", remedy) from error
    except Exception as error:  # store libraries share no base class of errors
        raise VaceTransportError(
            f"{field}: the store of {shown} could not be opened ({describe_error(error)}); nothing was sent",
            sent=False,
        ) from error
