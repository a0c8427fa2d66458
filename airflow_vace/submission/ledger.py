"""One prediction, one bill: what a task has submitted, kept across its attempts, and what follows from it.

A record goes through three phases. `intent` is written before the create and says that one may be under
way; `submitted` holds the prediction that came back; `settled` how it ended, and what was saved. It
never holds the key, the input or the output. :func:`decide` says what an attempt does about a record;
:class:`Ledger` keeps the record in Airflow's task state store, which outlives an attempt (3.3+).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from airflow_vace.exceptions import LedgerError, SubmissionUnknown, VaceError
from airflow_vace.inputs import DEFAULT_MODEL, FIELDS
from airflow_vace.prediction import RETENTION_SECONDS, Prediction, PredictionStatus, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = "vace_prediction"

OnOrphanedIntent = Literal["fail", "resubmit"]

# Seeds are 31 bits wide at the vendor's: https://replicate.com/prunaai/vace-14b/api/schema
_SEEDS = 2**31
# What is deeper in a task's arguments does not count.
_DEEPEST_ARGUMENT = 12
# How far a worker's clock and the vendor's may differ.
_CLOCK_SKEW = timedelta(minutes=15)

# --- what is ordered -------------------------------------------------------------------------------

# AWS, CloudFront, Google, Azure, Alibaba, Tencent.
_SIGNATURES = frozenset(
    {"signature", "sig", "x-amz-signature", "x-goog-signature", "x-oss-signature", "q-signature"}
)
_SIGNING = re.compile(
    r"x-(amz|goog|oss|cos)-.*|q-.*|signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid"
    r"|ossaccesskeyid|security-token|sig|se|sp|spr|sr|st|sv|sk(oid|tid|t|e|s|v)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a create would ask for: normalised input, model, version, and over which connection.

    `values` are the input as its author means it, files by their paths; `sent` is what goes out, with URLs
    in place of the paths, if they differ. `arguments` is the digest of what other tasks, or the caller of a
    function, handed to the task; None if that is nothing, or not known.
    """

    values: Mapping[str, Any] = field(repr=False)
    model: str
    version: str | None
    conn_id: str
    sent: Mapping[str, Any] | None = field(default=None, repr=False)
    arguments: str | None = None

    @property
    def wire(self) -> Mapping[str, Any]:
        """The input as it goes out."""
        return self.values if self.sent is None else self.sent

    @property
    def is_random(self) -> bool:
        """Whether the model would draw a seed of its own."""
        seed = self.values.get("seed", FIELDS["seed"].default)
        return self.model.lower() == DEFAULT_MODEL and seed < 0

    def with_seed(self, seed: int) -> Order:
        sent = None if self.sent is None else {**self.sent, "seed": seed}
        return replace(self, values={**self.values, "seed": seed}, sent=sent)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all of it: two orders with the same one are the same order.

        A signature in a URL does not count, since it differs each time it is made; nor does a seed that
        is drawn.
        """
        values = {name: _unsigned(value) for name, value in self._completed.items()}
        if self.is_random:
            del values["seed"]
        return _digest([self.model.lower(), self.version, values, self.conn_id])

    @property
    def marked(self) -> tuple[str, ...]:
        """Names of the inputs by which an echo is known again; a server may rewrite a `data:` URL."""
        return tuple(sorted(name for name, value in self.wire.items() if not _holds_data(value)))

    def mark(self, names: Iterable[str]) -> str:
        """Return a digest of the named inputs, by which a prediction's echo of them is known again."""
        return _digest({name: _unsigned(self.wire.get(name)) for name in names})

    @property
    def _completed(self) -> dict[str, Any]:
        """The input with its defaults, which some servers echo and some don't."""
        if self.model.lower() != DEFAULT_MODEL:
            return dict(self.values)
        defaults = {name: known.default for name, known in FIELDS.items() if known.default is not None}
        return {**defaults, **self.values}


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


def digest_of_arguments(value: object) -> str:
    """Return a digest of a task's arguments that is the same in each of its processes."""
    return _digest(_steady(value))


def _steady(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON without what differs from process to process: addresses, the order of a set."""
    if value is None or isinstance(value, str | int | float):
        return _unsigned(value)
    if depth > _DEEPEST_ARGUMENT:
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return {str(name): _steady(item, depth + 1) for name, item in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((_steady(item, depth + 1) for item in value), key=_digest)
    if isinstance(value, bytes | bytearray | memoryview):
        return sha256(value).hexdigest()
    if isinstance(value, Sequence):  # Airflow's lazy results of a mapped task too: a slice is one request
        return [_steady(item, depth + 1) for item in value[:]]
    return _steady_object(value, depth + 1)


def _steady_object(value: Any, depth: int) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _steady(getattr(value, f.name), depth) for f in fields(value)}
    for name in ("to_json", "tolist"):  # tables and arrays, whose text leaves rows out
        with suppress(Exception):  # another library's method of that name
            return _steady(getattr(value, name)(), depth)
    text = str(value)
    if " at 0x" not in text:
        return text
    return [type(value).__qualname__, _steady(getattr(value, "__dict__", None), depth)]


def _unsigned(value: Any) -> Any:
    if isinstance(value, list):
        return [_unsigned(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    value = value.strip()  # as servers do
    if not value.lower().startswith(("http://", "https://")):
        return value
    try:
        parts = urlsplit(value)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:  # a prompt that begins like a URL
        return value
    if not any(name.lower() in _SIGNATURES for name, _ in query):
        return value
    kept = [(name, text) for name, text in query if not _SIGNING.fullmatch(name)]
    return urlunsplit(parts._replace(query=urlencode(kept)))


def _holds_data(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, str) and item[:5].lower() == "data:" for item in items)


# --- what is known of it ---------------------------------------------------------------------------


class Phase(StrEnum):
    """How far a submission has come."""

    INTENT = "intent"
    SUBMITTED = "submitted"
    SETTLED = "settled"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one task instance has submitted, as JSON in its state store.

    `deadline` is in seconds since the epoch. `intended_at` is ISO 8601, and so is `lost_since`, if
    creates before this one were lost. `seed` is the one sent, drawn here if `is_seed_drawn`. `mark` is
    :class:`Order`'s, of the inputs named in `marked`; `is_exact` says that no other input matters.
    `max_tries` is Airflow's, which grows when a person clears the task and stays when Airflow retries
    it. `prediction` is a payload without its output; `earlier` are the ids that the task had before.

    `origin` is the address that the create went to, and `account` a salted digest of the key that went along:
    only the same account can say that it has no such prediction. `arguments` is the :class:`Order`'s.
    `is_own` is False for a prediction that may be another task's. `deferred` says that the attempt waits in
    the triggerer. `offset` is how far the server's clock was ahead at the submission, in seconds; `deadline`
    is in the server's time then. Records of an older version lack these.
    """

    phase: Phase
    fingerprint: str
    mark: str
    marked: tuple[str, ...] = ()
    is_exact: bool = True
    conn_id: str
    model: str
    version: str | None = None
    seed: int | None = None
    is_seed_drawn: bool = False
    nonce: str
    intended_at: str
    lost_since: str | None = None
    deadline: float
    max_tries: int | None = None
    prediction: dict[str, Any] | None = None
    earlier: tuple[str, ...] = ()
    origin: str | None = None
    account: str | None = None
    arguments: str | None = None
    is_own: bool = True
    deferred: bool = False
    offset: float | None = None

    @classmethod
    def of(  # noqa: PLR0913 - what an intent consists of
        cls,
        order: Order,
        *,
        deadline: float,
        max_tries: int | None,
        before: Record | None,
        origin: str | None = None,
        key: str | None = None,
    ) -> Self:
        """Return the intent to submit an order, `before` being what the task has submitted last.

        After a lone intent whose prediction was not found, its seed and time are kept, so that a create
        which comes through late is still known again.
        """
        orphan = before if before is not None and before.phase is Phase.INTENT else None
        earlier = before.earlier if before is not None else ()
        if before is not None and orphan is None:
            earlier = (*earlier, before.known.id)
        seed = order.values.get("seed") if order.model.lower() == DEFAULT_MODEL else None
        if order.is_random:
            is_same = orphan is not None and orphan.fingerprint == order.fingerprint
            seed = orphan.seed if orphan and is_same and orphan.is_seed_drawn else secrets.randbelow(_SEEDS)
        sent = order if seed is None else order.with_seed(seed)
        nonce = secrets.token_hex(8)
        return cls(
            phase=Phase.INTENT,
            fingerprint=order.fingerprint,
            mark=sent.mark(sent.marked),
            marked=sent.marked,
            is_exact=order.is_random or set(sent.marked) == set(sent.wire),
            conn_id=order.conn_id,
            model=order.model,
            version=order.version,
            seed=seed,
            is_seed_drawn=order.is_random,
            nonce=nonce,
            intended_at=datetime.now(UTC).isoformat(),
            lost_since=(orphan.lost_since or orphan.intended_at) if orphan else None,
            deadline=deadline,
            max_tries=max_tries,
            earlier=earlier,
            origin=origin,
            account=None if key is None else _account_of(key, nonce),
            arguments=order.arguments,
        )

    @classmethod
    def from_json(cls, data: object) -> Record:
        """Read a record; members that a later version has added are left alone.

        :raises LedgerError: for what is no record
        """
        try:
            if not isinstance(data, dict):
                raise TypeError(type(data).__name__)
            known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
            known["phase"] = Phase(known["phase"])
            known["marked"] = tuple(known["marked"])
            known["earlier"] = tuple(known.get("earlier", ()))
            known["deadline"] = float(known["deadline"])
            for name in ("origin", "account", "arguments"):
                known[name] = known[name] if isinstance(known.get(name), str) else None
            known["is_own"] = known.get("is_own") is not False
            known["deferred"] = known.get("deferred") is True
            offset = known.get("offset")
            known["offset"] = float(offset) if isinstance(offset, int | float) else None
            datetime.fromisoformat(known["intended_at"])
            record = cls(**known)
            datetime.fromisoformat(record.listed_from)
            if record.phase is not Phase.INTENT:
                Prediction.from_json(record.prediction)
        except (KeyError, TypeError, ValueError, OverflowError, VaceError) as error:
            raise LedgerError(
                f"The key {KEY!r} in this task's state store is no record that this version can read"
                f" ({type(error).__name__}). Nothing was submitted. See at the vendor's whether a prediction"
                " of this task runs, then delete the key, and run the task again."
            ) from error
        return record

    def as_json(self) -> dict[str, Any]:
        tuples = {"marked": list(self.marked), "earlier": list(self.earlier)}
        return {**asdict(self), "phase": str(self.phase), **tuples}

    def submitted(self, prediction: Prediction) -> Record:
        return replace(self, phase=Phase.SUBMITTED, prediction=_kept_of(prediction))

    def is_at(self, origin: str, key: str) -> bool:
        """Return True if this server and account are those of the create, as far as the record says."""
        is_same_server = self.origin in (None, origin)
        return is_same_server and self.account in (None, _account_of(key, self.nonce))

    def settled(self, prediction: Prediction) -> Record:
        """Return the record of a prediction that has ended; what was saved of it once stays known."""
        kept = _kept_of(prediction)
        if not prediction.files and self.known.files:
            kept["files"] = self.known.files
        return replace(self, phase=Phase.SETTLED, prediction=kept, deferred=False)

    @property
    def known(self) -> Prediction:
        """The prediction as last recorded.

        :raises VaceProtocolError: for an intent, which has none
        """
        return Prediction.from_json(self.prediction)

    @property
    def listed_from(self) -> str:
        """The ISO 8601 time from which a lost create can be in the back-end's list."""
        since = datetime.fromisoformat(self.lost_since or self.intended_at)
        return (since - _CLOCK_SKEW).isoformat()

    def is_of(self, prediction: Prediction) -> bool | None:
        """Whether a listed prediction is the one intended; None if that can't be told any more."""
        if prediction.id in self.earlier:
            return False
        if prediction.model and "/" in prediction.model and prediction.model.lower() != self.model.lower():
            return False
        if not prediction.input:
            return None
        echo = Order(values=prediction.input, model=self.model, version=None, conn_id=self.conn_id)
        if echo.mark(self.marked) != self.mark:
            # The seed is this task's, but the server tells another input: better not to guess.
            return None if self.is_seed_drawn and prediction.input.get("seed") == self.seed else False
        # Without a seed of its own it may as well be a sibling's, made from other files.
        return True if self.is_exact else None

    def may_be(self, item: Mapping[str, Any]) -> bool:
        """Return True if an unreadable object of the list may be the prediction intended."""
        created = parse_time(item.get("created_at") if isinstance(item.get("created_at"), str) else None)
        if created is not None and created < datetime.fromisoformat(self.listed_from):
            return False
        known = Prediction.from_json({**item, "id": "unreadable", "status": "unknown"})
        return self.is_of(known) is not False


def _account_of(key: str, nonce: str) -> str:
    """Return a digest that distinguishes accounts; the salt makes the digests of one key differ."""
    return sha256(f"{nonce}:{key}".encode()).hexdigest()[:16]


def _kept_of(prediction: Prediction) -> dict[str, Any]:
    kept = {**prediction.payload(), "output": None}
    kept["urls"] = {name: url for name, url in kept["urls"].items() if name in ("get", "cancel", "web")}
    return {name: value for name, value in kept.items() if value not in (None, {}, [])}


# --- what follows from it --------------------------------------------------------------------------

HOW_TO_ANEW = f"delete the key {KEY!r} in this task's state store and clear the task"
HOW_TO_GO_ON = (
    f"To go on with one, use a VacePredictionSensor on its id; to submit anew, {HOW_TO_ANEW}, or set"
    " on_orphaned_intent='resubmit'."
)

_ENDED_BADLY = (PredictionStatus.FAILED, PredictionStatus.CANCELED, PredictionStatus.ABORTED)


@dataclass(frozen=True, kw_only=True)
class Gone:
    """The back-end was asked for the prediction and does not know it (any more)."""

    error: VaceError


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What the back-end's list shows of a lone intent; None: nobody can be asked, since `why`.

    `is_unclear`: something in the list may be it, but can't be told from others.
    """

    found: tuple[Prediction, ...] | None
    is_unclear: bool = False
    why: str = "this back-end does not list its predictions"


Told = Prediction | Gone | Listed | None


@dataclass(frozen=True, kw_only=True)
class Submit:
    """Submit a new prediction, since `why`; cancel the old one first if there is one that runs."""

    why: str = ""
    cancel: Prediction | None = None


@dataclass(frozen=True)
class LookAt:
    """Ask the back-end for this prediction, and decide again."""

    prediction: Prediction


@dataclass(frozen=True)
class LookUp:
    """Find out in the back-end's list what became of a lone intent, and decide again."""

    intent: Record


@dataclass(frozen=True)
class Adopt:
    """Record this prediction as the one that was intended, cancel the `others`, and decide again."""

    intent: Record
    prediction: Prediction
    others: tuple[Prediction, ...] = ()


@dataclass(frozen=True)
class Reattach:
    """Go on with this prediction, which runs."""

    record: Record
    prediction: Prediction


@dataclass(frozen=True)
class Return:
    """This prediction has succeeded already: its result is the task's."""

    record: Record
    prediction: Prediction


@dataclass(frozen=True)
class Refuse:
    """Neither submit nor wait: a person must look."""

    error: VaceError


Decision = Submit | LookAt | LookUp | Adopt | Reattach | Return | Refuse


def decide(  # noqa: PLR0913 - all that a decision about money depends on
    record: Record | None,
    fingerprint: str,
    told: Told,
    *,
    now: float,
    is_cleared: bool = False,
    may_differ: bool = False,
    reuse: bool = True,
    on_orphaned_intent: OnOrphanedIntent = "fail",
    only_submits: bool = False,
    is_adopted: bool = False,
    can_deny: bool = True,
) -> Decision:
    """Say what an attempt does about what an earlier one has left.

    :param record: what the state store holds; None if that is nothing (not: if it could not be read)
    :param fingerprint: the :class:`Order`'s of this attempt
    :param told: what the back-end has said since; None if it was not asked yet
    :param now: seconds since the epoch
    :param is_cleared: a person has cleared the task since the record was made
    :param may_differ: Airflow retries the task by itself: an input that renders differently is no wish
    :param reuse: whether a success is returned to a task that was cleared
    :param on_orphaned_intent: what to do about a lone intent that can't be looked up
    :param only_submits: the task's result is the prediction's id, not its video
    :param is_adopted: this attempt has found the prediction of a create whose answer was lost
    :param can_deny: the server that was asked is the one, and the account, of the create: it can say that
        there is no such prediction
    """
    if record is None:
        return Submit()
    if record.phase is Phase.INTENT:
        return _about_intent(record, told, on_orphaned_intent)
    known = record.known
    if record.phase is Phase.SETTLED and known.status is not PredictionStatus.SUCCEEDED:
        return Submit(why=_ended_badly(known))
    if fingerprint != record.fingerprint and not may_differ:
        return _about_another_order(record, known)
    if told is None:
        return LookAt(known)
    if isinstance(told, Gone):
        is_wanted = reuse or not is_cleared
        return _about_gone(
            record, told, now, is_wanted=is_wanted, only_submits=only_submits, can_deny=can_deny
        )
    if not isinstance(told, Prediction):
        raise TypeError(f"a prediction that is {record.phase} is looked at, not listed")
    if told.status is PredictionStatus.SUCCEEDED:
        is_wanted = reuse or not is_cleared
        return _about_success(record, told, now, is_wanted=is_wanted, only_submits=only_submits)
    if told.status.is_final and not (is_adopted and not is_cleared):
        return Submit(why=_ended_badly(told))
    return Reattach(record, told)


def _about_another_order(record: Record, known: Prediction) -> Submit:
    was = f"Prediction {known.id} of an earlier attempt was made from another input, model, version or"
    was += " connection"
    if record.phase is Phase.SETTLED:
        return Submit(why=f"{was}. {known.bill}")
    if not record.is_own:
        return Submit(why=f"{was}. It is left running, since it may be another task's.")
    return Submit(why=f"{was}. It is canceled, if it still runs.", cancel=known)


def _about_success(
    record: Record, told: Prediction, now: float, *, is_wanted: bool, only_submits: bool
) -> Decision:
    files = record.known.files or told.files
    if not is_wanted:
        return Submit(why=f"Prediction {told.id} has succeeded, but reuse=False asks for a new one.")
    if not files and not only_submits and (told.has_expired_at(now) or record.known.data_removed):
        return Submit(why=_expired(told))
    return Return(record, replace(told, files=files))


def _about_intent(record: Record, told: Told, on_orphaned_intent: OnOrphanedIntent) -> Decision:
    if not isinstance(told, Listed):
        return LookUp(record)
    if told.found:
        found = {prediction.id: prediction for prediction in told.found}
        best = min(found.values(), key=_worth)
        # A drawn seed is this task's alone; with one that the author chose, others may be other tasks'.
        others = [p for p in found.values() if p.id != best.id and not p.status.is_final]
        return Adopt(record, best, tuple(others) if record.is_seed_drawn else ())
    if told.found is not None and not told.is_unclear:
        return Submit(
            why=f"A create that was begun at {record.intended_at} never arrived: the back-end lists no such"
            " prediction, so nothing was paid for it."
        )
    reason = told.why if told.found is None else "the back-end's list shows some that can't be told from it"
    lost = f"A create was begun at {record.intended_at}, its answer was lost, and {reason}"
    if on_orphaned_intent == "resubmit":
        return Submit(
            why=f"{lost}: it may be running, and be billed. Submitting again, as on_orphaned_intent says."
        )
    return Refuse(
        SubmissionUnknown(
            f"{lost}: a prediction may be running, and be billed, whose id nobody knows. Look into the"
            f" vendor's list of predictions. {HOW_TO_GO_ON}"
        )
    )


def _worth(prediction: Prediction) -> int:
    """Return the rank of a prediction that was found: a success first, one without a video last."""
    if prediction.status is PredictionStatus.SUCCEEDED:
        return 0
    return 2 if prediction.status in _ENDED_BADLY else 1


def _about_gone(  # noqa: PLR0913 - all that the decision depends on
    record: Record, gone: Gone, now: float, *, is_wanted: bool, only_submits: bool, can_deny: bool
) -> Decision:
    known = record.known
    if known.files and is_wanted:
        return Return(record, replace(known, data_removed=True))
    if not can_deny:
        where = f"at {record.origin}" if record.origin else "over this connection"
        return Refuse(
            LedgerError(
                f"Prediction {known.id} was submitted {where}, and the connection {record.conn_id!r} leads to"
                " another server or account now, which does not know it. Nothing was submitted since: point"
                f" the connection back, or {HOW_TO_ANEW}. What came: {gone.error}"
            )
        )
    ended = parse_time(known.completed_at)
    if now > (ended.timestamp() if ended else record.deadline) + RETENTION_SECONDS:
        is_enough = only_submits and is_wanted and known.status not in _ENDED_BADLY
        return Return(record, replace(known, data_removed=True)) if is_enough else Submit(why=_expired(known))
    # The wrong server, or another account's key, would say the same.
    return Refuse(gone.error)


def _ended_badly(prediction: Prediction) -> str:
    verb = "has failed" if prediction.status is PredictionStatus.FAILED else f"was {prediction.status}"
    said = f": {prediction.error}" if prediction.error else ""
    return f"Prediction {prediction.id} of an earlier attempt {verb}{said}. {prediction.bill}"


def _expired(prediction: Prediction) -> str:
    return (
        f"Prediction {prediction.id} has ended and its files have been deleted since, with nothing saved by"
        " this task. It is billed all the same."
    )


# --- where it is kept ------------------------------------------------------------------------------


class Store(Protocol):
    """As much of Airflow's `task_state_store` as is used here."""

    def get(self, key: str) -> Any: ...

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None: ...

    def delete(self, key: str) -> None: ...


class IntentLostError(LedgerError):
    """Raised when an intent is no longer this attempt's: another one owns the task now."""


class Ledger:
    """The record of one task instance, in the state store that outlives its attempts."""

    is_durable = True

    def __init__(self, store: Store) -> None:
        self._store = store
        self._latest: Record | None = None
        self._was_read = False

    @property
    def latest(self) -> Record | None:
        """The record as this process knows it: last written, or read, which happens once.

        :raises LedgerError: if it could not be read
        """
        return self._latest if self._was_read else self.read()

    def read(self) -> Record | None:
        """Return what an earlier attempt has left, None if that is nothing.

        :raises LedgerError: if it could not be read, which is not nothing
        """
        try:
            data = self._store.get(KEY)
        except Exception as error:  # Airflow's API server, or a custom state back-end: a stranger
            raise LedgerError(
                f"What this task has submitted before could not be read ({type(error).__name__}: {error})."
                " Nothing was submitted: that might pay twice."
            ) from error
        self._latest = None if data is None else Record.from_json(data)
        self._was_read = True
        return self._latest

    def intend(self, record: Record, before: Record | None) -> None:
        """Write an intent in the place of what was there `before`, and make sure that it is there.

        :raises LedgerError: if it is not; nothing may be submitted then
        """
        try:
            self.write(record)
            written = self.read()
        except BaseException:  # a time-out too: nothing is sent after it
            with suppress(LedgerError):
                self.withdraw(before)
            raise
        if written is None or written.nonce != record.nonce:
            raise LedgerError(
                "The intent to submit is not in this task's state store after it was written there: another"
                " attempt of this task runs, or the store loses what it is given. Nothing was submitted."
            )

    def write(self, record: Record) -> None:
        """Write a record that never expires; it goes with its DAG run.

        :raises LedgerError: if it could not be written
        """
        from airflow.sdk.execution_time.context import NEVER_EXPIRE

        try:
            self._store.set(KEY, record.as_json(), retention=NEVER_EXPIRE)
        except Exception as error:  # as above
            raise LedgerError(
                f"The state of this task's prediction could not be recorded ({type(error).__name__}: {error})"
            ) from error
        self._latest, self._was_read = record, True

    def confirm(self, intent: Record) -> None:
        """Return if a record is still what the store holds, so that this attempt may act on it.

        :raises IntentLostError: if another attempt has taken over, or the store knows this attempt no more
        :raises LedgerError: if it could not be read
        """
        found = self.read()
        if found is None or found.nonce != intent.nonce:
            raise IntentLostError(
                "Another attempt of this task has taken over: this one sends no create and cancels nothing."
                " Nothing was submitted by this one."
            )

    def withdraw(self, before: Record | None) -> None:
        """Forget an intent whose create was certainly not accepted; what was there `before` is again.

        :raises LedgerError: if that could not be done
        """
        if before is not None:
            self.write(before)
            return
        try:
            self._store.delete(KEY)
        except Exception as error:  # as above
            raise LedgerError(
                f"An intent could not be withdrawn ({type(error).__name__}: {error})"
            ) from error
        self._latest = None


class AttemptLedger(Ledger):
    """The record of one attempt, in its XCom: all there is below Airflow 3.3, or without `durable`.

    Airflow deletes it when the next attempt begins, so it only serves to go on after a deferral.
    """

    is_durable = False

    def __init__(self, ti: Any) -> None:
        self._ti = ti
        self._latest: Record | None = None
        self._was_read = ti is None

    def read(self) -> Record | None:
        if self._was_read:
            return self._latest
        ti = self._ti
        data = ti.xcom_pull(task_ids=ti.task_id, key=KEY, map_indexes=ti.map_index)
        self._latest = None if data is None else Record.from_json(data)
        self._was_read = True
        return self._latest

    def intend(self, record: Record, before: Record | None) -> None:
        """Nobody would read it."""

    def confirm(self, intent: Record) -> None:
        """No other attempt can have taken over what only this one knows."""

    def write(self, record: Record) -> None:
        self._latest, self._was_read = record, True
        if self._ti is None:
            return
        try:
            self._ti.xcom_push(KEY, record.as_json())
        except Exception as error:  # Airflow's own trouble, of any kind
            raise LedgerError(f"The prediction could not be noted in XCom: {error}") from error

    def withdraw(self, before: Record | None) -> None:
        """There was none."""
