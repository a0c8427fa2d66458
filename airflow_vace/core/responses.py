"""Answers read as predictions; what is none is an error that names what came."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

from airflow_vace.core.errors import read_detail, read_error
from airflow_vace.core.forms import excerpt_of, is_html, is_torn, json_of, text_of
from airflow_vace.core.requests import PRUNA, Api, Request, Response
from airflow_vace.exceptions import VaceProtocolError, excerpt
from airflow_vace.prediction import Prediction, PredictionStatus


def read_prediction(api: Api, request: Request, response: Response) -> Prediction:
    """Return the prediction in an answer to a create, a look or a cancel.

    :raises VaceAPIError: (or what is below it) if the server refused
    :raises VaceProtocolError: if the answer is not a prediction, or another one
    """
    data = _read_object(api, request, response)
    if api.backend.name == PRUNA.name:
        data = _from_pruna(api, request, data)
    if request.verb == "create" and data.get("id") and not data.get("status"):
        # It was accepted: losing its id for want of a word would lose the money.
        data["status"] = PredictionStatus.STARTING
    if "id" not in data:
        raise _unexpected(request, response, text_of(api, response))
    try:
        prediction = _prediction_of(data)
    except VaceProtocolError as error:
        raise VaceProtocolError(
            f"{error} ({request.shown} -> {response.status_code})",
            status_code=response.status_code,
            body=error.body,
        ) from None
    if request.prediction_id and prediction.id != request.prediction_id:
        raise VaceProtocolError(
            f"Asked for prediction {request.prediction_id}, got {prediction.id}",
            status_code=response.status_code,
            body=excerpt_of(api, response),
        )
    return prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of the account's predictions.

    :param predictions: those that could be read, in the server's order
    :param following: address of the next page, None on the last one
    :param unreadable: objects of the page that are no readable predictions, as the server wrote them
    """

    predictions: tuple[Prediction, ...] = ()
    following: str | None = None
    unreadable: tuple[dict[str, Any], ...] = field(default=(), repr=False)


def read_list(api: Api, request: Request, response: Response) -> Page:
    """Return one page of predictions; an unreadable item does not hide the others.

    :raises VaceAPIError: (or what is below it) if the server refused
    :raises VaceProtocolError: if the answer is no page of predictions
    """
    data = _read_object(api, request, response)
    results, following = data.get("results"), data.get("next")
    if not isinstance(results, list):
        raise _unexpected(request, response, text_of(api, response))
    predictions, unreadable = [], []
    for item in results:
        try:
            predictions.append(_prediction_of(item))
        except VaceProtocolError:
            if isinstance(item, dict):
                unreadable.append(item)
    return Page(
        predictions=tuple(predictions),
        following=following if isinstance(following, str) and following else None,
        unreadable=tuple(unreadable),
    )


def read_upload(api: Api, request: Request, response: Response) -> str:
    """Return the address of a file that was uploaded, for use in an input.

    :raises VaceAPIError: (or what is below it) if the server refused
    :raises VaceProtocolError: if the answer names none
    """
    data = _read_object(api, request, response)
    urls = data.get("urls")
    url = urls.get("get") if isinstance(urls, dict) else None
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise VaceProtocolError(
            f"{request.shown} was answered with {response.status_code}, without the address of the file:"
            f" {excerpt_of(api, response)}",
            status_code=response.status_code,
            body=excerpt_of(api, response),
        )
    return url


def read_probe(api: Api, request: Request, response: Response) -> None:
    """Read the answer to a look for a prediction that cannot exist; return if this API refused it properly.

    :raises VaceAuthError: if the key was refused
    :raises VaceError: if it is not this API, or it is in trouble
    """
    text = text_of(api, response)
    if response.status_code in (400, 404, 422) and not is_html(response, text):
        try:
            if isinstance(json_of(text), dict):
                return
        except ValueError:
            pass
        raise VaceProtocolError(
            f"{request.shown}: a server answers there, but it does not speak this API:"
            f" {response.status_code} {excerpt(text, 200)}",
            status_code=response.status_code,
            body=excerpt(text, 300),
        )
    read_prediction(api, request, response)


def _prediction_of(data: Any) -> Prediction:
    """Read a prediction without the members that only a task can know; a server may send any name."""
    ours = ("files", "label", "map_index", "seed")
    told = (
        {name: value for name, value in data.items() if name not in ours} if isinstance(data, dict) else data
    )
    return Prediction.from_json(told)


def _from_pruna(api: Api, request: Request, data: dict[str, Any]) -> dict[str, Any]:
    """Put Pruna's answers into the common form: `generation_url` is the output, `get_url` the status."""
    known = {**data}
    if request.verb == "create":
        if isinstance(data.get("get_url"), str):
            known["urls"] = {"get": _joined(api.base_url, data["get_url"])}
    else:
        known.setdefault("id", request.prediction_id)
        known["error"] = data.get("error") or data.get("message")
        if data.get("status") == "succeeded":
            known["error"] = None
    if isinstance(data.get("generation_url"), str) and data["generation_url"]:
        known["output"] = _joined(f"{api.base_url}/", data["generation_url"])
    return known


def _joined(base: str, told: str) -> str:
    """Return what a server calls an address, whole if it is one; who goes there says if it is none."""
    try:
        return urljoin(base, told)
    except ValueError:
        return told


def _read_object(api: Api, request: Request, response: Response) -> dict[str, Any]:
    if not 200 <= response.status_code < 300:
        raise read_error(api, request, response)
    text = text_of(api, response)
    try:
        data = json_of(text)
    except ValueError:
        raise _unexpected(request, response, text) from None
    if not isinstance(data, dict):
        raise _unexpected(request, response, text)
    return data


def _unexpected(request: Request, response: Response, text: str) -> VaceProtocolError:
    kind = "an HTML page" if is_html(response, text) else "an unexpected response"
    said = excerpt(read_detail(text) or text, 300) or "an empty body"
    about = f" for prediction {request.prediction_id}" if request.prediction_id else ""
    bill = " No prediction came back; look into the vendor's list before paying again."
    return VaceProtocolError(
        f"{request.shown}{about} was answered with {response.status_code} and {kind} instead of a"
        f" prediction: {said}.{bill if request.verb == 'create' else ''}",
        status_code=response.status_code,
        body=excerpt(text, 300),
        is_torn=not is_html(response, text) and is_torn(text),
    )
