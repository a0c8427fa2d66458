"""Random histories of tasks with a cap: real ledgers, decisions and calls, a vendor in virtual time."""

from __future__ import annotations

import json
import logging
import random
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from airflow_vace.batch.chunks import Chunks
from airflow_vace.batch.ledger import ItemLedger
from airflow_vace.client.creates import Creates
from airflow_vace.client.settings import Settings
from airflow_vace.core.create_budget import CreateBudget
from airflow_vace.core.pricing import Price, Pricing
from airflow_vace.core.requests import Request, Response
from airflow_vace.core.steps import Connect, Once, Pause
from airflow_vace.core.timing import Timing
from airflow_vace.exceptions import (
    BudgetExceeded,
    SubmissionUnknown,
    VaceError,
    VaceTransportError,
    VideoRejected,
)
from airflow_vace.hooks import VaceHook
from airflow_vace.prediction import Prediction, PredictionStatus
from airflow_vace.submission.decision import Attempt, Policy, may_regenerate
from airflow_vace.submission.expense import Spending, total_cost
from airflow_vace.submission.ledger import Ledger
from airflow_vace.submission.submitter import Submission
from airflow_vace.task.claim import OperatorClaim
from support.attempts import Killed
from support.records import order

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.core.steps import Call
    from airflow_vace.submission.order import Order

LOG = logging.getLogger("histories")
LOG.setLevel(logging.CRITICAL)
MODEL = "prunaai/vace-14b"
TIMEOUT = 600.0
_NOW = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
# Real pauses of the search and of polls vanish at this scale.
TIMING = Timing().scaled(1e-6)


@dataclass
class Vendor:
    """Predictions, their ends and their bill; answers get lost, and processes die around each request."""

    chance: random.Random
    trouble: float
    now: float = _NOW
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    may_kill: bool = True
    # What the present task has reserved for the present create.
    reserved: Callable[[], Decimal] = Decimal

    def send(self, request: Request) -> Response:
        """Answer a request, or lose the request or the answer, or die."""
        fate = self.chance.random() / self.trouble if self.trouble else 1.0
        self._die_if(fate < 0.15)
        if 0.15 <= fate < 0.3:
            raise VaceTransportError("lost on the way", sent=True)
        if 0.3 <= fate < 0.4:
            return Response(429, {"retry-after": "1"}, b'{"detail": "slow down"}')
        answer = self._answer(request)
        self._die_if(0.4 <= fate < 0.6)
        if 0.6 <= fate < 0.8:
            raise VaceTransportError("answer lost", sent=True)
        return answer

    def _die_if(self, is_time: bool) -> None:  # noqa: FBT001 - the only parameter
        if is_time and self.may_kill:
            raise Killed

    def _answer(self, request: Request) -> Response:
        path = urlsplit(request.url).path
        match request.verb:
            case "create":
                assert isinstance(request.body, bytes)
                return self._json(201, self._created(json.loads(request.body)["input"]))
            case "list":
                since = parse_qs(urlsplit(request.url).query).get("created_after", [""])[0]
                del since  # the package leaves older ones out itself
                return self._json(200, {"results": [self._seen(name) for name in reversed(self.runs)]})
            case "cancel":
                name = path.split("/")[-2]
                if self._status(name) in ("starting", "processing"):
                    self.runs[name]["canceled"] = self.now
                return self._json(200, self._seen(name))
            case "get":
                return self._json(200, self._seen(path.split("/")[-1]))
            case "model":
                owner, name = MODEL.split("/")
                return self._json(200, {"owner": owner, "name": name, "latest_version": {"id": "v1"}})
            case _:
                raise AssertionError(request.verb)

    def _created(self, values: dict[str, Any]) -> dict[str, Any]:
        name = f"p{len(self.runs):024d}"
        end = self.chance.choices(("succeeded", "busy", "failed", "aborted"), (6, 2, 1, 1))[0]
        seconds = round(self.chance.uniform(5, 300), 3)
        self.runs[name] = {
            "input": values,
            "end": end,
            "seconds": seconds,
            "created": self.now,
            "canceled": None,
            "reserved": self.reserved(),
            "is_bad": self.chance.random() < 0.4,
        }
        return self._seen(name)

    def _status(self, name: str) -> str:
        run = self.runs[name]
        if run["canceled"] is not None:
            return "canceled"
        passed = self.now - run["created"]
        if run["end"] == "aborted":
            return "aborted" if passed > 10 else "starting"
        if passed < 10 + run["seconds"]:
            return "starting" if passed < 10 else "processing"
        return "failed" if run["end"] == "busy" else run["end"]

    def seconds(self, name: str) -> float:
        """Return the time for which a prediction has run, 0.0 before its start."""
        run = self.runs[name]
        until: float = self.now if run["canceled"] is None else run["canceled"]
        passed: float = min(max(until - run["created"] - 10, 0.0), run["seconds"])
        return round(passed, 3)

    def _seen(self, name: str) -> dict[str, Any]:
        run, status = self.runs[name], self._status(name)
        is_final = status not in ("starting", "processing")
        error = "Queue is full, please try again later" if run["end"] == "busy" else "NSFW content"
        return {
            "id": name,
            "status": status,
            "model": MODEL,
            "version": "v1",
            "input": run["input"],
            "created_at": datetime.fromtimestamp(run["created"], UTC).isoformat(),
            "output": "https://delivery.example/a.mp4" if status == "succeeded" else None,
            "error": error if status == "failed" else None,
            "metrics": {"predict_time": self.seconds(name)} if is_final and status != "aborted" else {},
        }

    @staticmethod
    def _json(code: int, body: Any) -> Response:
        return Response(code, {"content-type": "application/json"}, json.dumps(body).encode())

    def overrun(self, price: Price) -> Decimal:
        """Return the cost of all runs beyond what was reserved for each."""
        costs = {name: price.of_seconds(self.seconds(name)).amount or Decimal() for name in self.runs}
        return sum(
            (max(cost - self.runs[name]["reserved"], Decimal()) for name, cost in costs.items()), Decimal()
        )

    def bill(self, price: Price) -> Decimal:
        """Return the sum of all predictions, as the vendor charges them."""
        seen = (Prediction.from_json(self._seen(name)) for name in self.runs)
        return sum((price.charge(each).amount or Decimal() for each in seen), Decimal())


class Hook(VaceHook):
    """A hook whose requests go to the vendor, and whose pauses move the virtual clock."""

    timing = TIMING

    def __init__(self, vendor: Vendor, backend: str, pricing: Pricing) -> None:
        super().__init__()
        connection: Any = SimpleNamespace(host="https://v.example", schema="", port=None, password="k" * 20)
        self._vendor = vendor
        self.wall_clock = lambda: vendor.now
        self._known_settings = Settings.of(connection, {"backend": backend, "version": "v1"}, timing=TIMING)
        self._known_pricing = pricing
        self._target = SimpleNamespace(
            api=self._known_settings.api,
            model=MODEL,
            version="v1",
            is_dry_run=False,
            creates=Creates(CreateBudget(None, TIMING), lambda: vendor.now),
        )

    def _run(self, call: Call[Any]) -> Any:
        answer: Any = None
        failure: VaceError | None = None
        while True:
            try:
                step = call.send(answer) if failure is None else call.throw(failure)
            except StopIteration as end:
                return end.value
            answer = failure = None
            match step:
                case Connect():
                    answer = self._target
                case Request():
                    self._vendor.now += 0.5
                    try:
                        answer = self._vendor.send(step)
                    except VaceError as error:
                        failure = error
                case Pause(seconds):
                    self._vendor.now += seconds
                case Once(_, kept):
                    answer = self._run(kept())


class Store(dict[str, str]):
    """A state store, around whose writes a process may die."""

    def __init__(self, vendor: Vendor) -> None:
        super().__init__()
        self._vendor = vendor

    def get(self, key: str) -> Any:  # type: ignore[override]
        return json.loads(self[key]) if key in self else None

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        del retention
        fate = self._vendor.chance.random() if self._vendor.may_kill else 1.0
        if fate < 0.01:
            raise Killed
        self[key] = json.dumps(value)
        if fate < 0.02:
            raise Killed

    def delete(self, key: str) -> None:
        self.pop(key, None)


@dataclass
class History:
    """One task, or one batch, from the first attempt to the last.

    `spent` is the vendor's bill, `receipt` the task's own. `overrun` is the cost of runs beyond what their
    reservations covered, possible with a price by the second alone.
    """

    cap: Decimal
    price: Price
    spent: Decimal
    receipt: dict[str, Any]
    predictions: int
    overrun: Decimal
    refused: int
    regenerated: int

    @property
    def is_unknown(self) -> bool:
        """Return True if a create, or the cost of a prediction, is unknown to the task."""
        return bool(self.receipt.get("has_unknown") or self.receipt.get("reserved"))


def fault_of(played: History) -> str | None:
    """Return what is wrong with the money of a history, None if nothing is."""
    # Only a price by the second can cost more than was reserved, and then no more than a run was longer.
    allowed = played.cap if played.price.per_second is None else played.cap + played.overrun
    if played.spent > allowed:
        return "the bill passes the cap"
    receipt = Decimal(played.receipt["amount"] or 0)
    if not played.is_unknown and receipt != played.spent:
        return "the receipt differs from the bill"
    # A run that is still open may have passed its reservation by now.
    return "the receipt hides money" if receipt + played.overrun < played.spent else None


def history(seed: int) -> History:
    """Play one history; the same seed plays the same history, but for nonces."""
    chance = random.Random(seed)  # noqa: S311 - repeatable
    vendor = Vendor(chance, trouble=chance.choice((0.0, 0.1, 0.3)))
    price = chance.choice(
        (
            Price(per_run=Decimal("0.40")),
            Price(per_second=Decimal("0.0014")),
            Price(per_run=Decimal("0.05"), per_second=Decimal("0.001")),
        )
    )
    player = _Player(vendor, chance, price)
    attempts = chance.randint(1, 4)
    for number in range(1, attempts + 1):
        player.attempt(number)
    # A last attempt without trouble finds all ends, so the receipt is complete unless a create is unknown.
    vendor.trouble, vendor.may_kill = 0.0, False
    player.attempt(attempts + 1)
    vendor.now += TIMEOUT
    return player.ended()


def _reserved(ledger: Ledger) -> Decimal:
    expense = ledger.spending.expense(ledger.name)
    assert expense is not None, "a create without a reservation"
    return expense.reserved


class _Player:
    def __init__(self, vendor: Vendor, chance: random.Random, price: Price) -> None:
        self.vendor = vendor
        self.chance = chance
        self.price = price
        self.cap = Decimal(chance.randint(20, 300)) / 100
        self.backend = chance.choice(("replicate", "gateway"))
        self.items = [f"k{number}" for number in range(chance.choice((1, 1, 2, 5)))]
        self.is_batch = len(self.items) > 1 or chance.random() < 0.2
        self.store = Store(vendor)
        self.refused = 0
        self.regenerated = 0
        self.max_tries = 9
        self.spending = Spending()
        self.policy = Policy(
            timeout=TIMEOUT,
            reuse=chance.random() < 0.8,
            on_orphaned_intent=chance.choice(("fail", "resubmit")),
            max_regenerations=chance.choice((0, 1, 4)),
        )

    def attempt(self, number: int) -> None:
        """Run an attempt, which may be killed anywhere."""
        # A retry begins after some time, and a clear raises Airflow's limit.
        self.vendor.now += self.chance.choice((1, 60, 4000))
        self.max_tries += self.chance.random() < 0.2
        self.spending = Spending(self.cap)
        with suppress(Killed):
            self._attempt(number)

    def _attempt(self, number: int) -> None:
        hook = Hook(self.vendor, self.backend, Pricing({MODEL: (self.price,)}))
        ledgers: dict[str, Ledger] = {}
        if self.is_batch:
            store: Any = self.store
            chunks = Chunks(store, number, is_durable=True, spending=self.spending)
            chunks.load()
            ledgers = {name: ItemLedger(chunks, name) for name in self.items}
        else:
            ledgers = {"": Ledger(self.store, self.spending)}
        for name in self.chance.sample(list(ledgers), len(ledgers)):
            self._item(hook, ledgers[name], name, Attempt(try_number=number, max_tries=self.max_tries))
        if self.is_batch:
            chunks.flush()

    def _item(self, hook: Hook, ledger: Ledger, name: str, attempt: Attempt) -> None:
        more: dict[str, Any] = {} if self.chance.random() < 0.9 else {"frame_num": 17}
        wanted = order(prompt=f"a fox {name}", **more)
        self.vendor.reserved = lambda: _reserved(ledger)
        while self._is_rejected(hook, ledger, wanted, attempt):
            self.regenerated += 1

    def _is_rejected(self, hook: Hook, ledger: Ledger, wanted: Order, attempt: Attempt) -> bool:
        """Submit once; return True for a success whose video another prediction may replace."""
        submission = Submission(hook, ledger, self.policy, log=LOG, attempt=attempt)
        try:
            prediction, _ = submission.prediction_of(lambda _: wanted)
        except (BudgetExceeded, VideoRejected):
            self.refused += 1
            return False
        except (SubmissionUnknown, VaceError):
            return False
        if self.chance.random() < 0.8:
            self.vendor.now += 400
        try:
            latest = prediction.updated(hook.get_prediction(prediction))
        except VaceError:
            return False
        if latest.status is PredictionStatus.SUCCEEDED:
            problems = ["100% of the frames are black."] if self.vendor.runs[latest.id]["is_bad"] else []
            latest = replace(latest, files=[{"uri": "file:///a.mp4", "facts": {"problems": problems}}])
        OperatorClaim(ledger, object(), LOG).settle(latest)
        return may_regenerate(ledger.latest, self.policy.max_regenerations)

    def ended(self) -> History:
        """Return the history after its end."""
        return History(
            cap=self.cap,
            price=self.price,
            spent=self.vendor.bill(self.price),
            receipt=total_cost(self.spending.expenses),
            predictions=len(self.vendor.runs),
            overrun=self.vendor.overrun(self.price),
            refused=self.refused,
            regenerated=self.regenerated,
        )
