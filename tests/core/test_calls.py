"""Calls as generators, driven without a server: which steps they yield, and in which order."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import pytest

from airflow_vace.client.creates import Creates
from airflow_vace.core import calls
from airflow_vace.core.create_budget import CreateBudget
from airflow_vace.core.requests import Api, Request, Response
from airflow_vace.core.steps import Connect, Note, Once, Pause, Step
from airflow_vace.core.timing import Timing
from airflow_vace.core.wait import Final, PollAgain, Wait
from airflow_vace.exceptions import (
    PredictionTimeout,
    SubmissionUnknown,
    VaceAPIError,
    VaceAuthError,
    VaceConnectionMissing,
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceRateLimited,
    VaceTransportError,
)
from airflow_vace.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

T = TypeVar("T")
TIMING = Timing()
UNSENT = VaceTransportError("the server was not reached", sent=False)
RESET = VaceTransportError("no answer came", sent=True)


@dataclass
class Target:
    api: Api = field(default_factory=lambda: Api.at("https://api.replicate.com", "key" * 5))
    model: str = "prunaai/vace-14b"
    version: str | None = "5129"
    is_dry_run: bool = False
    creates: Creates = field(default_factory=lambda: Creates(CreateBudget()))


def answer(status_code: int = 200, /, **body: Any) -> Response:
    return Response(status_code, {}, json.dumps(body).encode())


def known(status: str = "processing", **members: Any) -> Response:
    return answer(id="abc", status=status, **members)


class Driver:
    """Answers requests from a script; `steps` are the steps but those that connect, `now` is its clock."""

    def __init__(self, *script: Response | VaceError, target: Target | VaceError | None = None) -> None:
        self.script = list(script)
        self.target = target or Target()
        self.steps: list[Step] = []
        self.now = 1_000_000.0
        if isinstance(self.target, Target):
            self.target.creates.clock = lambda: self.now

    def run(self, call: Generator[Step, Any, T]) -> T:
        result: Any = None
        while True:
            try:
                step = call.throw(result) if isinstance(result, VaceError) else call.send(result)
            except StopIteration as end:
                value: T = end.value
                return value
            if isinstance(step, Connect):
                result = self.target
                continue
            if isinstance(step, Once):
                try:
                    result = self.run(step.call())
                except VaceError as error:
                    result = error
                continue
            self.steps.append(step)
            result = self.script.pop(0) if isinstance(step, Request) else None
            if isinstance(step, Pause):
                self.now += step.seconds

    @property
    def verbs(self) -> list[str]:
        """The steps in short: the verb of a request, or `pause` for pauses in a row."""
        shown = [step for step in self.steps if not isinstance(step, Note)]
        verbs = [step.verb if isinstance(step, Request) else "pause" for step in shown]
        return [
            verb
            for verb, before in zip(verbs, ["", *verbs], strict=False)
            if (verb, before) != ("pause",) * 2
        ]

    @property
    def notes(self) -> list[str]:
        return [step.text for step in self.steps if isinstance(step, Note)]

    def create(self, values: Any = None, **kwargs: Any) -> Prediction:
        checks = {name: kwargs.pop(name, None) for name in ("before_resend", "while_waiting")}
        creation = calls.Creation(values=values or {"prompt": "a fox"}, **kwargs)
        return self.run(calls.create(creation, timing=TIMING, now=lambda: self.now, **checks))

    def wait(self, call: Any, **kwargs: Any) -> Any:
        wait = Wait(prediction=Prediction.from_json({"id": "abc", "status": "starting"}), **kwargs)
        return self.run(call(wait, now=lambda: self.now))


# --- create ----------------------------------------------------------------------------------------


def test_a_create_is_one_request() -> None:
    driver = Driver(known("starting"))
    assert driver.create().id == "abc"
    assert driver.verbs == ["create"]


def test_a_target_for_dry_runs_gets_no_create() -> None:
    driver = Driver(target=Target(is_dry_run=True))
    with pytest.raises(VaceInputError, match="extra 'dry_run' is true, so the create was not sent"):
        driver.create()
    assert driver.verbs == []


def test_a_create_tells_the_server_its_deadline() -> None:
    driver = Driver(known("starting"))
    driver.create(deadline=driver.now + 90.0)
    (request,) = driver.steps
    assert isinstance(request, Request)
    assert request.headers["Cancel-After"] == "90s"


def test_a_doubt_about_the_input_is_noted_before_the_create() -> None:
    driver = Driver(known("starting"))
    driver.create({"prompt": "a fox", "frame_num": 82})
    assert isinstance(driver.steps[0], Note)
    assert "may refuse" in driver.notes[0]


@pytest.mark.parametrize("error", [UNSENT, VaceRateLimited("m", status_code=429)], ids=["unsent", "limited"])
def test_a_create_that_was_not_accepted_is_sent_again_after_a_pause(error: VaceError) -> None:
    driver, asked = Driver(error, error, known("starting")), []
    driver.create(before_resend=lambda: asked.append(list(driver.verbs)))
    assert driver.verbs == ["create", "pause", "create", "pause", "create"]
    assert asked == [["create", "pause"], ["create", "pause", "create", "pause"]]
    assert all("Nothing was accepted" in note for note in driver.notes)


def test_a_create_that_is_not_wanted_any_more_is_not_sent_again() -> None:
    def refuse() -> None:
        raise VaceInputError("not wanted", field="task")

    driver = Driver(UNSENT)
    with pytest.raises(VaceInputError, match="not wanted"):
        driver.create(before_resend=refuse)
    assert driver.verbs == ["create", "pause"]


def test_a_create_ends_after_its_attempts() -> None:
    driver = Driver(*[UNSENT] * TIMING.max_create_attempts)
    with pytest.raises(VaceTransportError):
        driver.create()
    assert driver.script == []


def test_a_create_ends_after_its_time() -> None:
    limited = VaceRateLimited("m", status_code=429, retry_after=50.0)
    driver = Driver(*[limited] * 6)
    with pytest.raises(VaceRateLimited):
        driver.create()
    assert driver.verbs.count("create") == 3


def test_a_create_without_a_clear_answer_is_never_repeated() -> None:
    driver = Driver(RESET)
    with pytest.raises(SubmissionUnknown) as caught:
        driver.create()
    assert caught.value.__cause__ is RESET
    assert driver.verbs == ["create"]


def test_a_connection_that_fails_ends_a_create_before_any_request() -> None:
    driver = Driver(target=VaceConnectionMissing("c"))
    with pytest.raises(VaceConnectionMissing):
        driver.create()
    assert driver.steps == []


LIMITED = VaceRateLimited("slow down", status_code=429, retry_after=30.0)


def stop() -> None:
    raise VaceTransportError("killed", sent=False)


def test_a_refused_create_ends_soon_after_a_kill() -> None:
    driver = Driver(LIMITED)
    with pytest.raises(VaceTransportError, match="killed"):
        driver.create(while_waiting=stop)
    assert [step for step in driver.steps if isinstance(step, Pause)] == [
        Pause(TIMING.max_create_pause_seconds)
    ]


def test_another_create_waits_for_the_end_of_a_limit_and_asks_again() -> None:
    driver, asked = Driver(LIMITED, known("starting"), known("starting")), []
    with pytest.raises(VaceTransportError, match="killed"):
        driver.create(while_waiting=stop)
    began = driver.now
    driver.create(before_resend=lambda: asked.append(driver.now))
    assert len(asked) == 1
    assert asked[0] >= began + 28.0
    # A turn without a wait needs no question.
    driver.now += 100.0
    driver.create(before_resend=lambda: asked.append(driver.now))
    assert len(asked) == 1


def test_a_create_that_is_not_wanted_after_its_wait_lets_the_next_one_go() -> None:
    driver = Driver(LIMITED, known("starting"))
    with pytest.raises(VaceTransportError, match="killed"):
        driver.create(before_resend=stop)
    before = driver.now
    driver.create()
    assert driver.now - before < 1.0


def test_creates_of_others_do_not_use_up_the_attempts() -> None:
    driver = Driver(*[VaceRateLimited("m", status_code=429)] * 40, known("starting"))
    creates = Creates(CreateBudget())
    driver.target = Target(creates=creates)
    creates.clock = lambda: driver.now

    def create_another() -> None:
        creates.turn().accepted(None)

    with pytest.raises(VaceRateLimited):
        driver.create(before_resend=create_another)
    # The count starts again a limited number of times, since a limit may concern this create alone.
    assert driver.verbs.count("create") == 2 * TIMING.max_create_attempts


def test_the_time_in_the_queue_shortens_the_time_at_the_server() -> None:
    driver = Driver(LIMITED, known("starting"))
    driver.create(deadline=driver.now + 90.0)
    sent = [step for step in driver.steps if isinstance(step, Request)]
    first, second = (int(request.headers["Cancel-After"].rstrip("s")) for request in sent)
    assert (first, second < 61) == (90, True)


# --- cancel ----------------------------------------------------------------------------------------

STARTED = Prediction.from_json({"id": "abc", "status": "processing"})


@pytest.mark.parametrize("status", [404, 409])
def test_a_refused_cancel_is_decided_by_the_status(status: int) -> None:
    driver = Driver(answer(status, detail="no"), known("succeeded"))
    assert driver.run(calls.cancel("abc")).status == "succeeded"
    assert driver.verbs == ["cancel", "get"]
    with pytest.raises(VaceAPIError):
        Driver(answer(status, detail="no"), known()).run(calls.cancel("abc"))


def test_a_cancel_that_is_answered_otherwise_is_read_by_a_get() -> None:
    driver = Driver(answer(202, ok=True), known("canceled"))
    assert driver.run(calls.cancel("abc")).status == "canceled"


def test_a_refused_key_ends_a_cancel() -> None:
    with pytest.raises(VaceAuthError):
        Driver(answer(401, detail="no")).run(calls.cancel("abc"))


def test_a_stop_cancels_again_after_trouble_and_notes_the_bill() -> None:
    driver = Driver(answer(502), RESET, known("canceled"))
    stopped = driver.run(calls.stop(STARTED, timing=TIMING))
    assert stopped is not None
    assert stopped.status == "canceled"
    assert driver.verbs == ["cancel", "pause", "cancel", "pause", "cancel"]
    assert "may run, and be billed" in driver.notes[0]
    assert driver.notes[-1].startswith("Prediction abc is canceled. ")


@pytest.mark.parametrize(
    ("script", "count"),
    [([RESET] * 3, 3), ([answer(401, detail="no")], 1)],
    ids=["trouble", "refused key"],
)
def test_a_stop_that_fails_returns_none(script: list[Response | VaceError], count: int) -> None:
    driver = Driver(*script)
    assert driver.run(calls.stop(STARTED, timing=TIMING)) is None
    assert driver.verbs.count("cancel") == count


def test_a_stop_over_a_missing_connection_is_not_repeated() -> None:
    driver = Driver(target=VaceConnectionMissing("c"))
    assert driver.run(calls.stop(STARTED, timing=TIMING)) is None
    assert driver.verbs == []


# --- list, upload, probe ---------------------------------------------------------------------------


def test_pages_follow_each_other_and_unreadable_items_are_noted() -> None:
    after = "https://api.replicate.com/v1/predictions?cursor=2"
    driver = Driver(answer(results=[{"id": "b c"}], next=after), answer(results=[], next=None))
    listing = calls.Listing(None, timing=TIMING, notes_unreadable=True)
    while not listing.is_over:
        driver.run(listing.next_page())
    first, _, second = driver.steps
    assert isinstance(first, Request)
    assert isinstance(second, Request)
    assert second.url == after
    assert "1 items that can't be read" in driver.notes[0]


def test_a_prediction_on_two_pages_is_listed_once() -> None:
    after = "https://api.replicate.com/v1/predictions?cursor=2"
    first, second, third = ({"id": name, "status": "starting"} for name in ("p3", "p2", "p1"))
    driver = Driver(answer(results=[first, second], next=after), answer(results=[second, third], next=None))
    listing, found = calls.Listing(None, timing=TIMING), list[str]()
    while not listing.is_over:
        found += [prediction.id for prediction in driver.run(listing.next_page()).predictions]
    assert found == ["p3", "p2", "p1"]


def test_an_endless_list_is_an_error() -> None:
    timing = Timing(max_list_pages=2)
    after = "https://api.replicate.com/v1/predictions?cursor=2"
    driver, listing = Driver(*[answer(results=[], next=after)] * 2), calls.Listing(None, timing=timing)
    for _ in range(2):
        driver.run(listing.next_page())
    with pytest.raises(VaceProtocolError, match="more than 2 pages"):
        driver.run(listing.next_page())


def uploaded(driver: Driver, opened: list[BinaryIO]) -> str:
    def open_it() -> AbstractContextManager[BinaryIO]:
        opened.append(BytesIO(b"film"))
        return opened[-1]

    file = calls.FileToUpload(open_it=open_it, name="a.mp4", content_type="video/mp4", size=4)
    return driver.run(calls.upload(file, timing=TIMING))


def test_an_upload_opens_its_file_again_for_each_attempt() -> None:
    opened: list[BinaryIO] = []
    driver = Driver(RESET, answer(201, urls={"get": "https://files/1"}))
    assert uploaded(driver, opened) == "https://files/1"
    assert driver.verbs == ["upload", "pause", "upload"]
    assert len(opened) == 2
    assert all(file.closed for file in opened)


@pytest.mark.parametrize(
    ("script", "kind"),
    [([RESET] * 3, VaceTransportError), ([answer(422, detail="no")], VaceAPIError)],
    ids=["trouble", "refused"],
)
def test_an_upload_ends_after_its_attempts_or_a_refusal(script: Any, kind: type[VaceError]) -> None:
    driver = Driver(*script)
    with pytest.raises(kind):
        uploaded(driver, [])
    assert driver.script == []


@pytest.mark.parametrize(
    ("script", "start"),
    [
        ([answer(404, detail="no"), answer(401, detail="no")], "Reached https://api.replicate.com/v1"),
        ([answer(404, detail="no"), answer(404, detail="no")], "Not this API, or it asks for no key"),
        ([answer(401, detail="no")], "Key refused: "),
        ([answer(405, detail="no")], "Not this API: "),
        ([answer(503)], "Reached, but refused: "),
        ([RESET], "No answer: "),
        ([UNSENT], "Not reached: "),
        ([Response(200, {}, b"<html>")], "Not this API: "),
    ],
)
def test_a_probe_names_the_part_that_fails(script: list[Response | VaceError], start: str) -> None:
    works, message = Driver(*script).run(calls.probe())
    assert message.startswith(start)
    assert works is start.startswith("Reached https")


def test_a_probe_names_a_connection_that_cannot_be_used() -> None:
    bad = VaceInputError("no host", field="host")
    assert Driver(target=bad).run(calls.probe()) == (False, "Not usable: no host")


# --- poll and wait ---------------------------------------------------------------------------------


def test_a_poll_is_one_request_and_notes_a_change() -> None:
    driver = Driver(known())
    assert isinstance(driver.wait(calls.poll), PollAgain)
    assert driver.verbs == ["get"]
    assert driver.notes == ["Prediction abc: processing"]


def test_trouble_ends_a_poll_without_ending_the_wait() -> None:
    driver = Driver(answer(500))
    assert isinstance(driver.wait(calls.poll), PollAgain)
    assert driver.verbs == ["get"]


def test_a_refusal_is_polled_again_until_it_is_settled() -> None:
    driver = Driver(*[answer(401, detail="no")] * TIMING.max_auth_refusals)
    with pytest.raises(VaceAuthError):
        driver.wait(calls.poll)
    assert driver.verbs.count("get") == TIMING.max_auth_refusals
    assert driver.verbs.count("pause") == TIMING.max_auth_refusals - 1


def test_a_proxys_refusal_does_not_end_a_wait() -> None:
    pages = [Response(403, {"Content-Type": "text/html"}, b"<html>blocked</html>")] * 50
    driver = Driver(*pages, known("succeeded"))
    assert driver.wait(calls.wait_until_final).status == "succeeded"


def test_a_wait_polls_until_the_end() -> None:
    driver = Driver(known("starting"), RESET, known(), known("failed"))
    assert driver.wait(calls.wait_until_final).status == "failed"
    assert driver.verbs == ["get", "pause", "get", "pause", "get", "pause", "get"]


def test_a_wait_ends_at_its_deadline() -> None:
    driver = Driver(*[known()] * 100)
    with pytest.raises(PredictionTimeout):
        driver.wait(calls.wait_until_final, deadline=driver.now + 60.0)
    assert driver.now == pytest.approx(1_000_060.0)


def test_a_wait_survives_a_connection_that_is_missing_for_a_moment() -> None:
    driver = Driver(known("succeeded"), target=VaceConnectionMissing("c"))

    def now() -> float:
        driver.target = Target()  # the connection is back by the next poll
        return driver.now

    decision = driver.run(calls.poll(Wait(prediction=STARTED), now=now))
    assert isinstance(decision, Final)
    assert decision.prediction.status == "succeeded"
