"""Records: the submission of one task instance as JSON, from intent to settlement.

A record holds neither the key nor input nor output.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from airflow_vace.exceptions import LedgerError, VaceError
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.prediction import Prediction
from airflow_vace.storage.checks import packed, unpacked
from airflow_vace.submission.expense import read_expense
from airflow_vace.submission.order import mark_of, names_in_echo
from airflow_vace.submission.rejected import SEED_COUNT, Rejected, next_seed, read_rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.submission.expense import Expense
    from airflow_vace.submission.order import Order

# Airflow's state stores, XComs and the documentation use this name, so a rename would hide old records.
RECORD_KEY = "vace_prediction"

# A worker's clock may be ahead of the vendor's, so a search begins earlier than the intent.
_MAX_CLOCK_SKEW = timedelta(minutes=15)


class Phase(StrEnum):
    """The three phases of a submission.

    `INTENT` is written before the create, `SUBMITTED` after the response, `SETTLED` after the end.
    """

    INTENT = "intent"
    SUBMITTED = "submitted"
    SETTLED = "settled"


@dataclass(frozen=True)
class Account:
    """A server's address, and the API key of an account there."""

    origin: str
    key: str = field(repr=False)

    def digest(self, nonce: str) -> str:
        """Return 16 hex digits of a salted digest; the salt makes digests of equal keys differ."""
        return hashlib.sha256(f"{nonce}:{self.key}".encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The circumstances of a submission; `now` and `deadline` are in seconds since the epoch.

    `max_tries` is Airflow's number, None if unknown. `account` receives the create. `latest_version` is the
    model's version at the server, looked up where the order names none. `expense` is the money reserved for
    the create, None without a price.
    """

    now: float
    deadline: float
    max_tries: int | None = None
    account: Account | None = None
    latest_version: str | None = None
    expense: Expense | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """The submission of one task instance, as JSON in the state store.

    `fingerprint` is the order's digest. `mark` is the digest of the inputs named in `marked`, and `is_exact`
    is True if these inputs suffice to identify the prediction. `seed` is the submitted seed, and
    `is_seed_drawn` is True for a seed that this package has drawn.

    `intended_at` is the ISO 8601 time of the intent; `lost_since` is the time of the first create in an
    uninterrupted series of lost creates. `deadline` is in seconds since the epoch, in the server's time after
    the submission; `offset` is the lead of the server's clock at the submission, in seconds.

    `max_tries` is Airflow's number: a clear raises the number, a retry keeps the number. `prediction` is a
    payload without output; `earlier` holds the ids of the task's previous predictions. `origin` is the
    create's address, and `account` a salted digest of the key: only the same account can deny a prediction.
    `arguments` is the order's digest of the same name. `is_own` is False for a prediction that may belong to
    another task. `deferred` is True while the attempt waits in the triggerer. `latest_version` is the version
    that was looked up for the create, as long as `version` is None. `order_digest` is the order's `digest`.
    `expense` is the money of this and of earlier predictions, None without a price. `rejected` holds the
    earlier successes of this order whose videos have problems, so its length is the number of regenerations.
    Records of older versions lack some members.
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
    latest_version: str | None = None
    order_digest: str | None = None
    expense: Expense | None = None
    rejected: tuple[Rejected, ...] = ()

    @classmethod
    def of(
        cls,
        order: Order,
        terms: Terms,
        *,
        before: Record | None,
        sent: Mapping[str, Any] | None = None,
        rejected: tuple[Rejected, ...] = (),
    ) -> Self:
        """Return the intent to submit an order.

        :param before: the task's previous record
        :param sent: the input with URLs in place of paths (default: the order's values)
        :param rejected: earlier clips of the order; with any, the seed is another one
        """
        orphan = before if before is not None and before.phase is Phase.INTENT else None
        earlier = before.earlier if before is not None else ()
        if before is not None and orphan is None:
            # A gateway's list may name a prediction by the vendor's id.
            ids = (before.known.id, before.known.upstream_id)
            earlier = (*earlier, *(identifier for identifier in ids if identifier))
        seed = _seed_for(order, orphan, rejected)
        values = _seeded(order.values if sent is None else sent, seed)
        marked = names_in_echo(values)
        # Two attempts may intend equal orders, so a nonce identifies the writer.
        nonce = secrets.token_hex(8)
        account = terms.account
        return cls(
            phase=Phase.INTENT,
            fingerprint=order.fingerprint,
            mark=mark_of(values, marked),
            marked=marked,
            is_exact=order.is_random or set(marked) == set(values),
            conn_id=order.conn_id,
            model=order.model,
            version=order.version,
            seed=seed,
            is_seed_drawn=order.is_random,
            nonce=nonce,
            intended_at=datetime.fromtimestamp(terms.now, UTC).isoformat(),
            # A lost create can appear in the list late, so the search keeps the first intent's time.
            lost_since=(orphan.lost_since or orphan.intended_at) if orphan else None,
            deadline=terms.deadline,
            max_tries=terms.max_tries,
            earlier=earlier,
            origin=None if account is None else account.origin,
            account=None if account is None else account.digest(nonce),
            arguments=order.arguments,
            latest_version=terms.latest_version,
            order_digest=order.digest,
            expense=terms.expense,
            rejected=rejected,
        )

    @classmethod
    def from_json(cls, data: object) -> Record:
        """Read a record, without members that a later version has added.

        :raises LedgerError: if `data` is no record
        """
        try:
            if not isinstance(data, dict):
                raise TypeError(type(data).__name__)
            known = {f.name: data[f.name] for f in fields(cls) if f.name in data}
            known["phase"] = Phase(known["phase"])
            known["marked"] = tuple(known["marked"])
            # Records of older versions lack members, so these get defaults.
            known["earlier"] = tuple(known.get("earlier", ()))
            known["deadline"] = float(known["deadline"])
            for name in ("origin", "account", "arguments", "latest_version", "order_digest"):
                known[name] = known[name] if isinstance(known.get(name), str) else None
            known["expense"] = read_expense(known.get("expense"))
            known["rejected"] = read_rejected(known.get("rejected"))
            known["is_own"] = known.get("is_own") is not False
            known["deferred"] = known.get("deferred") is True
            offset = known.get("offset")
            known["offset"] = float(offset) if isinstance(offset, int | float) else None
            datetime.fromisoformat(known["intended_at"])
            record = cls(**known)
            # A decision about money must not fail halfway, so all members are parsed here once.
            datetime.fromisoformat(record.listed_from)
            if record.phase is not Phase.INTENT:
                record.known  # noqa: B018 - read once, and kept
        except (KeyError, TypeError, ValueError, OverflowError, VaceError) as error:
            raise LedgerError(
                f"The key {RECORD_KEY!r} in this task's state store is no record that this version can read"
                f" ({type(error).__name__}). Nothing was submitted. See at the vendor's whether a prediction"
                " of this task runs, then delete the key, and run the task again."
            ) from error
        return record

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form of the state store; older versions of this package can read the form."""
        members = {f.name: getattr(self, f.name) for f in fields(self)}
        tuples: dict[str, Any] = {"marked": list(self.marked), "earlier": list(self.earlier)}
        tuples["rejected"] = [clip.as_json() for clip in self.rejected]
        expense = {} if self.expense is None else {"expense": self.expense.as_json()}
        return {**members, "phase": str(self.phase), **tuples, **expense}

    def submitted(self, prediction: Prediction) -> Record:
        """Return the record of an accepted create."""
        return replace(self, phase=Phase.SUBMITTED, prediction=_kept_of(prediction))

    def settled(self, prediction: Prediction) -> Record:
        """Return the record of a prediction that has ended; saved files stay recorded."""
        kept = _kept_of(prediction)
        if not prediction.files and self.known.files:
            kept["files"] = packed(self.known.files)
        return replace(
            self, phase=Phase.SETTLED, prediction=kept, deferred=False, expense=self.expense_after(prediction)
        )

    def expense_after(self, prediction: Prediction) -> Expense | None:
        """Return the expense after the end of the recorded prediction, None without a price."""
        return None if self.expense is None else self.expense.settled(prediction)

    def as_rejected(self) -> Rejected:
        """Return the entry of the recorded prediction, whose saved video has problems."""
        cost = None if self.expense is None else self.expense.cost()
        return Rejected.of(self.known, self.seed, cost)

    def seeded(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the input with the recorded seed."""
        return _seeded(values, self.seed)

    def latest_version_for(self, order: Order) -> str | None:
        """Return the version that was looked up for an order of the same model and connection, else None."""
        is_same_model = self.model.lower() == order.model.lower() and self.conn_id == order.conn_id
        return self.latest_version if is_same_model and order.version is None else None

    def is_at(self, account: Account) -> bool:
        """Return True unless the create went to another server or account."""
        # Records of older versions lack both members, so a missing member matches any account.
        is_same_server = self.origin in (None, account.origin)
        return is_same_server and self.account in (None, account.digest(self.nonce))

    @cached_property
    def known(self) -> Prediction:
        """The prediction as last recorded.

        :raises VaceProtocolError: for an intent without prediction
        """
        known = Prediction.from_json(self.prediction)
        rejected = [clip.as_json() for clip in self.rejected]
        return replace(known, files=unpacked(known.files), rejected=rejected)

    @property
    def listed_from(self) -> str:
        """The ISO 8601 time from which the list can contain a lost create."""
        since = datetime.fromisoformat(self.lost_since or self.intended_at)
        return (since - _MAX_CLOCK_SKEW).isoformat()

    def is_of(self, prediction: Prediction) -> bool | None:
        """Return True if a listed prediction is the intended prediction, None if that is unclear."""
        # A second create of the same order has the same echo, so known ids are excluded first.
        if prediction.id in self.earlier:
            return False
        # Gateways report internal names, so only a full `owner/name` can exclude a prediction.
        if prediction.model and "/" in prediction.model and prediction.model.lower() != self.model.lower():
            return False
        if not prediction.input:
            return None
        if mark_of(prediction.input, self.marked) != self.mark:
            # A drawn seed belongs to this task alone, so a changed input with this seed is suspicious.
            return None if self.is_seed_drawn and prediction.input.get("seed") == self.seed else False
        # An author's seed may recur in sibling tasks, so an equal echo can come from other files.
        return True if self.is_exact else None

    def may_be(self, item: Mapping[str, Any]) -> bool:
        """Return True if an unreadable object of the list may be the intended prediction."""
        readable = Prediction.from_json({**item, "id": "unreadable", "status": "unknown"})
        return self.is_of(readable) is not False


def _seed_for(order: Order, orphan: Record | None, rejected: tuple[Rejected, ...]) -> int | None:
    """Return the seed to submit; None for models without a known seed.

    With rejected clips, the seed is none of theirs.
    """
    used = {clip.seed for clip in rejected}
    if not order.is_random:
        given = order.values.get("seed")
        if rejected and isinstance(given, int):
            return next_seed(given, len(rejected), {given, *used})
        return given if order.model.lower() == DEFAULT_MODEL else None
    if orphan is not None and orphan.is_seed_drawn and orphan.fingerprint == order.fingerprint:
        # With the same seed, a lost create that appears late is still recognised.
        return orphan.seed
    while (drawn := secrets.randbelow(SEED_COUNT)) in used:
        pass
    return drawn


def _seeded(values: Mapping[str, Any], seed: int | None) -> Mapping[str, Any]:
    return values if seed is None else {**values, "seed": seed}


def _kept_of(prediction: Prediction) -> dict[str, Any]:
    """Return the members of a prediction that a record stores: no output, no signed or empty members."""
    # All users of the DAG can read the state store, so the output stays out.
    kept = {**prediction.payload(), "output": None}
    kept["files"] = packed(prediction.files)
    # The record itself holds the rejected clips.
    kept.pop("rejected", None)
    kept["urls"] = {name: url for name, url in kept["urls"].items() if name in ("get", "cancel", "web")}
    return {name: value for name, value in kept.items() if value not in (None, {}, [])}
