"""Versions of models: the one that a create names, and the look-up of the latest at Replicate.

Replicate refuses a create without a version, except for official models:
https://replicate.com/docs/reference/http#predictions.create
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_vace.core.names import is_version, split_reference
from airflow_vace.core.responses import read_object
from airflow_vace.core.retry import Backoff, Failure, failure_of, is_not_found, verdict_of
from airflow_vace.core.steps import Note, Once, Pause, sent
from airflow_vace.exceptions import VaceError, VaceInputError, VaceTransportError

if TYPE_CHECKING:
    from airflow_vace.core.requests import Api, Request, Response
    from airflow_vace.core.steps import Call, Target
    from airflow_vace.core.timing import Timing

# A page, a cut answer or a proxy's refusal is trouble on the way, which another attempt may not meet.
_TROUBLE = (Failure.UNREADABLE, Failure.TRUNCATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """The newest state of a model at the server.

    :param is_official: a create needs no version
    :param version: id of the latest version, None if unknown
    """

    is_official: bool
    version: str | None


def chosen(model: str | None, version: str | None, target: Target) -> tuple[str, str | None]:
    """Return model and version of a create; the connection completes both.

    The connection's version belongs to the connection's model, so another model goes without.

    :param version: None for the connection's version, "" for the server's choice
    :raises VaceInputError: if two models or two versions are named
    """
    model, version = split_reference(model, version)
    model = model or target.model
    if version is None and model.lower() == target.model.lower():
        version = target.version
    return model, version or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sendable:
    """The version that a create names.

    :param version: id, None for a create by the model's name
    :param failure: the failed look-up if a create by name is tried instead
    """

    version: str | None = None
    failure: VaceError | None = None


def version_to_send(target: Target, model: str, version: str | None, *, timing: Timing) -> Call[Sendable]:
    """Return the version for a create: the given one, else the latest where the server needs a version.

    The server is asked once per process and connection, free of charge. A server that does not know the
    model, or never answers the look-up, gets the create by name: Replicate refuses this, and other servers
    may lack only the look-up.

    :param version: None for the server's choice
    :raises VaceInputError: if the server names no version
    :raises VaceTransportError: if the server is in trouble; nothing was submitted
    :raises VaceAPIError: if the server refuses the key, or has too many requests
    """
    if version or not target.api.backend.needs_version:
        return Sendable(version=version)
    try:
        latest: Latest = yield Once((target.api, model), lambda: _latest_of(target.api, model, timing))
    except VaceInputError:
        raise
    except VaceError as error:
        if not is_not_found(error) and failure_of(error) is not Failure.NO_ANSWER:
            raise version_needed(model, error) from error
        yield Note(
            f"No version of {model} could be looked up, so the request names none: {error}", is_warning=True
        )
        return Sendable(failure=error)
    if latest.is_official:
        return Sendable()
    yield Note(f"Version {latest.version} of {model} is used, the latest; name a version to keep to one")
    return Sendable(version=latest.version)


def _latest_of(api: Api, model: str, timing: Timing) -> Call[Latest]:
    """Ask the server for a model, again after trouble."""
    request, backoff, attempt = api.model(model), Backoff(timing=timing), 0
    while True:
        attempt += 1
        try:
            latest = _read_model(api, request, (yield from sent(request)))
            if latest.is_official or latest.version:
                return latest
            raise _unversioned(model, "the server names no latest version.")
        except VaceError as error:
            if attempt >= timing.max_model_attempts or not _is_trouble(error):
                raise
            delay = backoff.delay_after(error)
            yield Note(f"Asking for the version of {model} again in {delay:.1f} s: {error}", is_warning=True)
        yield Pause(delay)


def _read_model(api: Api, request: Request, response: Response) -> Latest:
    data = read_object(api, request, response)
    latest = data.get("latest_version")
    version = latest.get("id") if isinstance(latest, dict) else None
    is_usable = isinstance(version, str) and is_version(version)
    return Latest(is_official=data.get("is_official") is True, version=version if is_usable else None)


def _is_trouble(error: VaceError) -> bool:
    return verdict_of(error, "poll").later or failure_of(error) in _TROUBLE


def version_needed(model: str, error: VaceError) -> VaceError:
    """Return the error for a failed look-up, or for a create without a version that found no model.

    The class says if another attempt may work.
    """
    needed = _unversioned(model, f"none could be looked up: {error}")
    if failure_of(error) in (Failure.KEY_REFUSED, Failure.NO_MONEY, Failure.RATE_LIMITED):
        refusal = copy.copy(error)
        refusal.args = needed.args
        return refusal
    # The create was never sent, so a transport error lets Airflow retry at no risk.
    return VaceTransportError(str(needed), sent=False) if _is_trouble(error) else needed


def _unversioned(model: str, reason: str) -> VaceInputError:
    return VaceInputError(
        f"{model} needs a version there, and {reason} Give one: `version=` of the operator, or the"
        f" connection's extra `version`. https://replicate.com/{model}/versions lists them. Nothing was"
        " submitted, nothing is billed.",
        field="version",
        remedy="give the id of a version",
    )
