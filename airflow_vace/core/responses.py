"""Responses read as predictions, pages of predictions and uploads; other bodies become errors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_vace.core.bodies import (
    excerpt_of,
    inner_object_of,
    is_html,
    is_truncated,
    json_object_of,
    json_of,
    text_of,
)
from airflow_vace.core.envelope_ids import joined
from airflow_vace.core.envelopes import (
    find_created,
    find_in_refusal,
    find_listed,
    find_polled,
    find_results,
)
from airflow_vace.core.errors import NOT_THE_API, error_inside, read_detail, read_error
from airflow_vace.core.identity import contradiction
from airflow_vace.exceptions import VaceProtocolError
from airflow_vace.prediction import Prediction
from airflow_vace.redaction import excerpt
from airflow_vace.status import says_success

if TYPE_CHECKING:
    from airflow_vace.core.requests import Api, Request, Response


def read_prediction(
    api: Api, request: Request, response: Response, known: Prediction | None = None
) -> Prediction:
    """Return the prediction in a response to a create, get or cancel, in any known form.

    :param known: the state before a get; decides about an answer under another id, see
        :mod:`airflow_vace.core.identity`
    :raises VaceAPIError: (or a subclass) if the server refused, also with an error inside of a 200
    :raises VaceProtocolError: if the response is not a prediction, or another prediction
    """
    asked = request.prediction_id
    if not 200 <= response.status_code < 300:
        found = find_in_refusal(json_object_of(text_of(api, response)) or {}, asked)
        if found is None:
            raise read_error(api, request, response)
    else:
        data = read_object(api, request, response)
        if api.backend.response_format == "pruna":
            data = _from_pruna(api, request, data)
        found = find_polled(data, asked) if asked else find_created(data, api.base_url)
        if found is None:
            text = text_of(api, response)
            raise error_inside(api, request, response) or _unexpected(request, response, text)
    try:
        prediction = replace(_prediction_of(found.members), upstream_id=found.other_id)
    except VaceProtocolError as error:
        raise VaceProtocolError(
            f"{error} ({request.shown} -> {response.status_code})",
            status_code=response.status_code,
            body=error.body,
        ) from None
    # A confused proxy or cache may serve another account's prediction.
    if known is not None and (member := contradiction(known, prediction)):
        raise VaceProtocolError(
            f"Asked for prediction {asked}, got {found.other_id} with another {member}",
            status_code=response.status_code,
            body=excerpt_of(api, response),
        )
    return prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of the account's predictions.

    :param predictions: all readable predictions, in the server's order
    :param following: address of the next page, None on the last page
    :param unreadable: objects that are not valid predictions, verbatim
    """

    predictions: tuple[Prediction, ...] = ()
    following: str | None = None
    unreadable: tuple[dict[str, Any], ...] = field(default=(), repr=False)


def read_list(api: Api, request: Request, response: Response) -> Page:
    """Return one page of predictions.

    :raises VaceAPIError: (or a subclass) if the server refused
    :raises VaceProtocolError: if the response is not a page of predictions
    """
    data, text = _read_json(api, request, response)
    found = find_results(data)
    if found is None:
        raise error_inside(api, request, response) or _unexpected(request, response, text)
    predictions, unreadable = [], []
    for item in found[0]:
        # One odd item must not hide the rest: a lost create is searched in this list.
        if isinstance(item, dict):
            try:
                predictions.append(_prediction_of(find_listed(item)))
            except VaceProtocolError:
                unreadable.append(item)
    following = found[1]
    return Page(
        predictions=tuple(predictions),
        following=following if isinstance(following, str) and following else None,
        unreadable=tuple(unreadable),
    )


def read_upload(api: Api, request: Request, response: Response) -> str:
    """Return the address of an uploaded file, for use in an input.

    :raises VaceAPIError: (or a subclass) if the server refused
    :raises VaceProtocolError: if the response contains no address
    """
    data = read_object(api, request, response)
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
    """Check the response to a get of a nonexistent prediction; return if this API refused the id.

    :raises VaceAuthError: if the key was refused
    :raises VaceError: if the server is in trouble or does not speak this API
    """
    text = text_of(api, response)
    if response.status_code not in (400, 404, 422) or is_html(response, text):
        read_prediction(api, request, response)
        return
    # Any web server answers 404, but only the API answers with a JSON object.
    if json_object_of(text) is None:
        raise VaceProtocolError(
            f"{request.shown}: a server answers there, but it does not speak this API:"
            f" {response.status_code} {excerpt(text, 200)}",
            status_code=response.status_code,
            body=excerpt(text, 300),
        )


def _prediction_of(data: dict[str, Any]) -> Prediction:
    """Read a prediction without the members that only payloads have."""
    # A hostile server may send the same names.
    ours = ("files", "label", "map_index", "seed", "status_word", "upstream_id")
    return Prediction.from_json({name: value for name, value in data.items() if name not in ours})


def _from_pruna(api: Api, request: Request, data: dict[str, Any]) -> dict[str, Any]:
    """Convert Pruna's members: `generation_url` is the output, `get_url` is `urls.get`."""
    known = {**data}
    if request.verb == "create":
        if isinstance(data.get("get_url"), str):
            known["urls"] = {"get": joined(api.base_url, data["get_url"])}
    else:
        # Pruna's status responses contain no id.
        known.setdefault("id", request.prediction_id)
        known["error"] = data.get("error") or data.get("message")
        if says_success(str(data.get("status"))):
            # `message` is "ok" or similar after a success, which is not an error.
            known["error"] = None
    if isinstance(data.get("generation_url"), str) and data["generation_url"]:
        known["output"] = joined(f"{api.base_url}/", data["generation_url"])
    return known


def read_object(api: Api, request: Request, response: Response) -> dict[str, Any]:
    """Return the object in a body, also out of a list of one, out of a text, or with other text around."""
    data, text = _read_json(api, request, response)
    if data is None or isinstance(data, str):
        data = inner_object_of(text if data is None else data)
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    if not isinstance(data, dict):
        raise _unexpected(request, response, text)
    return data


def _read_json(api: Api, request: Request, response: Response) -> tuple[Any, str]:
    """Return the JSON and the text of a body; None for other content."""
    if not 200 <= response.status_code < 300:
        raise read_error(api, request, response)
    text = text_of(api, response)
    try:
        return json_of(text), text
    except ValueError:
        return None, text


def _unexpected(request: Request, response: Response, text: str) -> VaceProtocolError:
    kind = "an HTML page" if is_html(response, text) else "an unexpected response"
    content = excerpt(read_detail(text) or text, 300) or "an empty body"
    about = f" for prediction {request.prediction_id}" if request.prediction_id else ""
    remedy = f" {NOT_THE_API}" if is_html(response, text) else ""
    bill = " No prediction came back; check the vendor's list of predictions before paying again."
    return VaceProtocolError(
        f"{request.shown}{about} was answered with {response.status_code} and {kind} instead of a"
        f" prediction: {content}.{remedy}{bill if request.verb == 'create' else ''}",
        status_code=response.status_code,
        body=excerpt(text, 300),
        is_truncated=not is_html(response, text) and is_truncated(text),
    )
