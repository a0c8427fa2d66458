"""The API's calls as generators: requests, retries and pauses, without I/O, clock or sleep.

The steps of a call are in :mod:`airflow_vace.core.steps`, a blocking and an asynchronous driver in
:mod:`airflow_vace.client.client`. The model is `auth_flow` of httpx.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_vace.core.create_turn import CreateAttempts
from airflow_vace.core.multipart import Form
from airflow_vace.core.references import read_known
from airflow_vace.core.response_times import read_allowance
from airflow_vace.core.responses import Page, read_list, read_prediction, read_probe, read_upload
from airflow_vace.core.retry import Backoff, is_not_found, read_failed_create, verdict_of
from airflow_vace.core.steps import Note, Pause, connected, sent
from airflow_vace.core.versions import chosen, version_needed, version_to_send
from airflow_vace.core.wait import Final, GiveUp, PollAgain, Wait
from airflow_vace.exceptions import (
    VaceAPIError,
    VaceAuthError,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceTransportError,
)
from airflow_vace.inputs import check_normalized, normalize_input
from airflow_vace.prediction import Prediction, latest_time, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from airflow_vace.core.steps import Call
    from airflow_vace.core.timing import Timing

# Servers answer a cancel so if the prediction has ended, or if they know no cancel: its status decides then.
_UNCANCELABLE = (400, 404, 405, 409, 410, 422)
_PROBE_ID = "airflow-connection-test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """The arguments of a create.

    :param values: inputs of the model; text from a template is normalised
    :param model: `owner/name`, or `owner/name:version` (default: the connection's)
    :param version: id of a version (default: the connection's; "" for the server's choice)
    :param deadline: seconds since the epoch at which the server is asked to cancel by itself
    :param is_normalized: the values come from :func:`airflow_vace.inputs.normalize_input`
    """

    values: Mapping[str, Any] | str
    model: str | None = None
    version: str | None = None
    deadline: float | None = None
    is_normalized: bool = False

    def sendable(self, model: str) -> tuple[Mapping[str, Any], list[str]]:
        """Return the values in the model's types, and warnings.

        :raises VaceInputError: for values that cannot work
        """
        if self.is_normalized and not isinstance(self.values, str):
            return self.values, check_normalized(self.values, model=model)
        return normalize_input(self.values, model=model)


def create(
    creation: Creation,
    *,
    timing: Timing,
    now: Callable[[], float],
    before_resend: Callable[[], None] | None = None,
    while_waiting: Callable[[], None] | None = None,
) -> Call[Prediction]:
    """Submit a prediction, at a price, and return the server's answer.

    The create waits for its turn in the account's budget. The request is repeated only after a failure that
    rules out acceptance.

    :param now: returns seconds since the epoch, by this machine's clock
    :param before_resend: called before each repetition, and after a long wait for a turn; an exception of it
        ends the call
    :param while_waiting: called about each second of a wait; an exception of it ends the call
    """
    target = yield from connected()
    model, version = chosen(creation.model, creation.version, target)
    values, warnings = creation.sendable(model)
    for warning in warnings:
        yield Note(f"The model may refuse this: {warning}", is_warning=True)
    chosen_version = yield from version_to_send(target, model, version, timing=timing)
    version = chosen_version.version
    if target.is_dry_run:
        raise _refused_by_dry_run()
    turn = target.creates.turn()
    checks = {"before_resend": before_resend, "while_waiting": while_waiting}
    with closing(CreateAttempts(turn=turn, timing=timing, now=now, **checks)) as attempts:
        while True:
            yield from attempts.begin()
            # The queue may be long, so each request states the seconds that are left.
            cancel_after = None if creation.deadline is None else creation.deadline - now()
            request = target.api.create(values, model=model, version=version, cancel_after=cancel_after)
            try:
                response = yield from sent(request)
                created = read_prediction(target.api, request, response)
            except VaceError as error:
                if (yield from attempts.pause_after(error)):
                    continue
                failure = read_failed_create(error)
                if version is None and target.api.backend.needs_version and is_not_found(error):
                    failure = version_needed(model, chosen_version.failure or error)
                raise failure from (None if failure is error else error)
            else:
                turn.accepted(read_allowance(response))
                # Payload and manifest show the version of the video, and some servers omit it.
                return created if created.version else replace(created, version=version)


def _refused_by_dry_run() -> VaceInputError:
    remedy = "remove dry_run from the connection's extra to submit"
    return VaceInputError(
        f"The connection's extra 'dry_run' is true, so the create was not sent; {remedy}. Nothing was"
        " submitted, nothing is billed.",
        field="dry_run",
        value=True,
        remedy=remedy,
    )


def latest_version(model: str, *, timing: Timing) -> Call[str | None]:
    """Return the latest version of a model, None where a create goes without a version.

    :raises VaceError: see :func:`airflow_vace.core.versions.version_to_send`
    """
    return (yield from version_to_send((yield from connected()), model, None, timing=timing)).version


def get(prediction: object) -> Call[Prediction]:
    """Return the present state of a prediction."""
    api = (yield from connected()).api
    request = api.get(prediction)
    known = prediction if isinstance(prediction, Prediction) else read_known(prediction)
    return read_prediction(api, request, (yield from sent(request)), known)


def cancel(prediction: object) -> Call[Prediction]:
    """Cancel a prediction and return the new state; a terminal prediction stays terminal."""
    api = (yield from connected()).api
    request = api.cancel(prediction)
    try:
        return read_prediction(api, request, (yield from sent(request)))
    except VaceProtocolError:
        # The server accepted the cancel and answered in its own form, so the status is read separately.
        return (yield from get(prediction))
    except VaceAPIError as refusal:
        if refusal.status_code not in _UNCANCELABLE:
            raise
        latest = yield from get(prediction)
        if not latest.status.is_final:
            raise
        return latest


def stop(prediction: Prediction, *, timing: Timing) -> Call[Prediction | None]:
    """Cancel a prediction in several attempts, and log the consequence for the bill.

    :return: the new state; None if no cancel was accepted
    """
    backoff, attempt = Backoff(timing=timing), 0
    while True:
        attempt += 1
        try:
            latest = prediction.updated((yield from cancel(prediction)))
        except VaceError as error:
            yield Note(
                f"Prediction {prediction.id} could not be canceled and may run, and be billed, to its end:"
                f" {error}",
                is_warning=True,
            )
            if attempt >= timing.max_cancel_attempts or not verdict_of(error, "cancel").now:
                return None
        else:
            yield Note(f"Prediction {latest.id} is {latest.status}. {latest.bill}")
            return latest
        yield Pause(backoff.next_delay())


class Listing:
    """The pages of the account's predictions, newest first; `is_over` after the last page.

    A prediction on two pages is in the first one only.

    :param created_after: ISO 8601 time; older predictions are left out
    :param notes_unreadable: log how many items of a page cannot be read
    """

    def __init__(self, created_after: str | None, *, timing: Timing, notes_unreadable: bool = False) -> None:
        self.created_after = created_after
        self.max_pages = timing.max_list_pages
        self.notes_unreadable = notes_unreadable
        self.is_over = False
        self._following: str | None = None
        self._count = 0
        self._listed: set[str] = set()

    def next_page(self) -> Call[Page]:
        """Return the next page.

        :raises VaceProtocolError: after `max_list_pages` pages
        """
        if self._count >= self.max_pages:
            raise VaceProtocolError(
                f"The list of predictions has more than {self.max_pages} pages: name a later time"
            )
        api = (yield from connected()).api
        request = api.page(self._following) if self._following else api.list(self.created_after)
        page = _newer(read_list(api, request, (yield from sent(request))), self.created_after)
        # Where a cursor counts rows, a new prediction moves the last row to the next page.
        page = replace(page, predictions=tuple(p for p in page.predictions if p.id not in self._listed))
        self._listed.update(prediction.id for prediction in page.predictions)
        self._count += 1
        self._following, self.is_over = page.following, page.following is None
        if page.unreadable and self.notes_unreadable:
            count = len(page.unreadable)
            text = f"The list of predictions has {count} items that can't be read; they are left out"
            yield Note(text, is_warning=True)
        return page


@dataclass(frozen=True, slots=True, kw_only=True)
class FileToUpload:
    """A file for :func:`upload`.

    :param open_it: opens the file, again for each attempt
    :param name: file name that the server is given
    :param content_type: media type
    :param size: in bytes
    """

    open_it: Callable[[], AbstractContextManager[BinaryIO]]
    name: str
    content_type: str
    size: int


def upload(file: FileToUpload, *, timing: Timing) -> Call[str]:
    """Upload a file, free of charge, and return a URL for use in an input."""
    api, backoff, attempt = (yield from connected()).api, Backoff(timing=timing), 0
    while True:
        attempt += 1
        try:
            # A form is read while it is sent, so each attempt needs a new one.
            with file.open_it() as opened:
                form = Form(opened, name=file.name, content_type=file.content_type, size=file.size)
                request = api.upload(form)
                return read_upload(api, request, (yield from sent(request)))
        except VaceError as error:
            if attempt >= timing.max_upload_attempts or not verdict_of(error, "upload").now:
                raise
            delay = backoff.delay_after(error)
            yield Note(f"Uploading {file.name} again in {delay:.1f} s: {error}", is_warning=True)
        yield Pause(delay)


def poll(wait: Wait, *, now: Callable[[], float]) -> Call[Final | PollAgain]:
    """Poll once; repeat after a refusal or an unconfirmed end until it is settled, in every mode alike.

    :param now: returns seconds since the epoch, by the clock of the wait's deadline
    :raises VaceError: the reason for the end of the wait
    """
    while True:
        try:
            decision = wait.answered((yield from get(wait.prediction)), now())
        except VaceError as error:
            decision = wait.failed(error, now())
        if wait.news:
            yield Note(wait.news, is_warning=wait.is_troubled)
        if isinstance(decision, GiveUp):
            raise decision.error
        if isinstance(decision, Final) or not wait.is_unsettled:
            return decision
        yield Pause(decision.seconds)


def wait_until_final(wait: Wait, *, now: Callable[[], float]) -> Call[Prediction]:
    """Poll until the prediction is terminal, and return the final state.

    :param now: returns seconds since the epoch, by the clock of the wait's deadline
    :raises VaceError: the reason for the end of the wait
    """
    while True:
        decision = yield from poll(wait, now=now)
        if isinstance(decision, Final):
            return decision.prediction
        yield Pause(decision.seconds)


def probe() -> Call[tuple[bool, str]]:
    """Ask for an impossible prediction, free of charge; return if address and key work, and a sentence.

    The answer distinguishes a wrong address from a wrong key.
    """
    try:
        api = (yield from connected()).api
        request = api.get(_PROBE_ID)
        response = yield from sent(request)
        read_probe(api, request, response)
        # A server of another kind may answer 404 to everything, with the key or without.
        # A gateway's second key stays, unless there is no other: the vendor's answer is the evidence.
        keys = {api.backend.key_header} if api.key else set(api.credentials)
        headers = {name: value for name, value in request.headers.items() if name not in keys}
        if (yield from sent(replace(request, headers=headers))).status_code == response.status_code:
            return False, (
                f"Not this API, or it asks for no key: {request.shown} is answered alike with the key and"
                " without. Check host, API prefix and back-end."
            )
    except VaceError as error:
        return False, f"{_finding(error)}: {error}"
    return True, f"Reached {api.base_url}{api.prefix} ({api.backend.name}); the key was accepted"


def _finding(error: VaceError) -> str:
    """Return the result of a failed probe in three words."""
    match error:
        case VaceInputError():
            return "Not usable"
        case VaceTransportError(sent=False):
            return "Not reached"
        case VaceTransportError():
            return "No answer"
        case VaceAuthError():
            return "Key refused"
        case VaceProtocolError():
            return "Not this API"
    is_page = isinstance(error, VaceAPIError) and error.status_code in (404, 405)
    return "Not this API" if is_page else "Reached, but refused"


def _newer(page: Page, created_after: str | None) -> Page:
    """Return a page without older predictions, since some servers ignore `created_after`."""
    start = parse_time(created_after)
    if start is None:
        return page

    def is_newer(created_at: object) -> bool:
        created = latest_time(created_at if isinstance(created_at, str) else None)
        return created is None or created > start

    return replace(
        page,
        predictions=tuple(found for found in page.predictions if is_newer(found.created_at)),
        unreadable=tuple(found for found in page.unreadable if is_newer(found.get("created_at"))),
    )
