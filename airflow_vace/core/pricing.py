"""Prices of models: the estimate before a create, and the charge after the end.

No vendor states the cost of a prediction in a response, so a person gives the prices. The table is JSON::

    {"prunaai/vace-14b": {"per_run": 0.40},
     "owner/model": [{"size": "1280*720", "per_run": 0.80}, {"per_second": 0.0014, "currency": "EUR"}]}

The first price of a list whose conditions fit applies. All amounts are :class:`decimal.Decimal`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from airflow_vace.core.names import check_model, split_reference
from airflow_vace.exceptions import VaceInputError
from airflow_vace.inputs import DEFAULT_MODEL, FIELDS, api_word
from airflow_vace.prediction import PredictionStatus, parse_time
from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from airflow_vace.prediction import Prediction

PER_RUN, PER_SECOND, UNKNOWN = "per_run", "per_second", "unknown"
HOW_TO_PRICE = (
    'set prices in the connection\'s extra, or [vace] prices, such as {"prunaai/vace-14b": {"per_run": 0.40}}'
)

_CONDITIONS = ("version", "size", "speed_mode")
_AMOUNTS = (PER_RUN, PER_SECOND)
_DEFAULTS = {name: FIELDS[name].default for name in ("size", "speed_mode")}
_CURRENCY = re.compile(r"[A-Z]{3}")
_MAX_AMOUNT = Decimal(1_000_000)
# Three decades: a longer time is a fault of the server, and would be too large for an amount.
_MAX_SECONDS = 1e9
# A second costs fractions of a cent, so amounts keep six digits.
_SMALLEST = Decimal("0.000001")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a prediction; `amount` is None if unknown.

    `basis` is `per_run`, `per_second`, or `unknown` without a price.
    """

    amount: Decimal | None = None
    currency: str | None = None
    basis: str = UNKNOWN

    def as_json(self) -> dict[str, Any]:
        """Return `{"amount": "0.40", "currency": "USD", "basis": "per_run"}`."""
        amount = None if self.amount is None else amount_text(self.amount)
        return {"amount": amount, "currency": self.currency, "basis": self.basis}


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price of a model's predictions, for a run, for each second of `metrics.predict_time`, or for both.

    `version`, `size` and `speed_mode` are conditions, None for any.
    """

    per_run: Decimal | None = None
    per_second: Decimal | None = None
    currency: str = "USD"
    version: str | None = None
    size: str | None = None
    speed_mode: str | None = None

    @property
    def basis(self) -> str:
        """The basis of the cost: `per_second` for a price of both kinds."""
        return PER_RUN if self.per_second is None else PER_SECOND

    def of_seconds(self, seconds: float) -> Cost:
        """Return the cost of a run.

        :param seconds: time of the run, as in `metrics.predict_time`
        """
        amount = (self.per_run or Decimal()) + (self.per_second or Decimal()) * Decimal(str(seconds))
        return self._cost(amount.quantize(_SMALLEST, ROUND_HALF_UP))

    def charge(self, prediction: Prediction) -> Cost:
        """Return the cost of a prediction, as far as known.

        An aborted prediction costs nothing; a canceled or failed one costs as much as a success of the same
        duration. The amount is None if a duration is needed and unknown, as for a running prediction.
        """
        if prediction.status is PredictionStatus.ABORTED:
            return self._cost(Decimal())
        if self.per_second is None:
            return self.of_seconds(0)
        seconds = run_seconds(prediction)
        return self._cost(None) if seconds is None else self.of_seconds(seconds)

    def applies_to(self, version: str | None, values: Mapping[str, Any]) -> bool:
        """Return True if the conditions fit."""
        if self.version is not None and self.version != version:
            return False
        for name in ("size", "speed_mode"):
            wanted = getattr(self, name)
            if wanted is not None and wanted != values.get(name):
                return False
        return True

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Price:
        """Read the form of :meth:`as_json`.

        :raises VaceInputError: if `data` is no price
        """
        return _read_price(data, None, "a record")

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form, without absent members."""
        members = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: str(value) if isinstance(value, Decimal) else value
            for name, value in members.items()
            if value is not None
        }

    def _cost(self, amount: Decimal | None) -> Cost:
        return Cost(amount=amount, currency=self.currency, basis=self.basis)


@dataclass(frozen=True)
class Pricing:
    """Prices by model in small letters."""

    prices: Mapping[str, tuple[Price, ...]]

    @classmethod
    def read(cls, table: object, place: str) -> Pricing:
        """Read a table of prices, also from JSON text; an absent table has no prices.

        :param place: where the table stands, for messages
        :raises VaceInputError: for the first entry that is no price; `field` is `prices`
        """
        if isinstance(table, str):
            table = table.strip()
            try:
                # A float would turn 0.1 into a binary fraction.
                table = json.loads(table or "null", parse_float=Decimal)
            except ValueError as error:
                raise _unusable(place, "is no JSON", str(error)) from error
        if not table:
            return cls({})
        if not isinstance(table, Mapping):
            raise _unusable(place, "is no object of prices by model", table)
        found: dict[str, tuple[Price, ...]] = {}
        for name, entry in table.items():
            model, version = _read_model(name, place)
            entries = entry if isinstance(entry, list) else [entry]
            prices = tuple(_read_price(each, version, f"{place}, model {name}") for each in entries)
            if model == DEFAULT_MODEL:
                # An order has the API's words, and an author may write the short ones.
                prices = tuple(map(_with_api_words, prices))
            # A price for a named version stands before the prices for all versions.
            known = found.get(model, ())
            found[model] = (*prices, *known) if version else (*known, *prices)
        return cls(found)

    def price_of(self, model: str | None, version: str | None, values: Mapping[str, Any]) -> Price | None:
        """Return the price of an order, None without a fitting price.

        :param model: `owner/name`
        :param version: id of the version, None if unknown
        :param values: inputs of the prediction
        """
        name = (model or DEFAULT_MODEL).lower()
        if name == DEFAULT_MODEL:
            values = {**_DEFAULTS, **values}
        fitting = self.prices.get(name, ())
        return next((price for price in fitting if price.applies_to(version, values)), None)

    def knows(self, model: str) -> bool:
        """Return True if the table has any price for a model."""
        return model.lower() in self.prices

    def charge(self, prediction: Prediction) -> Cost:
        """Return the cost of a prediction by its own model, version and input; see :meth:`Price.charge`."""
        price = self.price_of(prediction.model, prediction.version, prediction.input)
        return Cost() if price is None else price.charge(prediction)


def run_seconds(prediction: Prediction) -> float | None:
    """Return the seconds for which a prediction that has ended has run, None if unknown."""
    seconds = prediction.metrics.get("predict_time")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < _MAX_SECONDS:
        return float(seconds)
    ended = parse_time(prediction.completed_at)
    if not prediction.status.is_final or ended is None:
        return None
    started = parse_time(prediction.started_at)
    if started is None:
        # Without a start, only a success or a failure must have run for some time.
        is_stopped = prediction.status is PredictionStatus.CANCELED
        return 0.0 if is_stopped else None
    return max((ended - started).total_seconds(), 0.0)


def amount_text(amount: Decimal) -> str:
    """Return an amount with two to six digits after the point."""
    text = f"{amount.quantize(_SMALLEST, ROUND_HALF_UP):f}"
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"


def money_text(amount: Decimal, currency: str | None) -> str:
    """Return an amount with its currency, such as `$0.40` or `EUR 0.40`."""
    return f"${amount_text(amount)}" if currency == "USD" else f"{currency} {amount_text(amount)}"


def read_amount(value: object) -> Decimal | None:
    """Return a number of at least 0 and less than a million, also from text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        amount = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and 0 <= amount < _MAX_AMOUNT else None


def _read_model(name: object, place: str) -> tuple[str, str | None]:
    if not isinstance(name, str):
        raise _unusable(place, "names a model that is no text", name)
    try:
        model, version = split_reference(name, None)
        check_model(model or "", version)
    except VaceInputError as error:
        raise _unusable(place, "names no model owner/name", name) from error
    return (model or "").lower(), version


def _with_api_words(price: Price) -> Price:
    conditions = {name: getattr(price, name) for name in _DEFAULTS}
    words: dict[str, Any] = {
        name: api_word(name, text) for name, text in conditions.items() if text is not None
    }
    return replace(price, **words)


def _read_price(entry: object, version: str | None, place: str) -> Price:
    if not isinstance(entry, Mapping):
        raise _unusable(place, "is no price", entry)
    known = {*_AMOUNTS, "currency", *_CONDITIONS}
    if unknown := sorted(str(name) for name in entry if name not in known):
        raise _unusable(place, f"has the unknown member {unknown[0]!r}", dict(entry))
    amounts: dict[str, Any] = {}
    for name in _AMOUNTS:
        if entry.get(name) is not None:
            amount = read_amount(entry[name])
            if amount is None:
                raise _unusable(place, f"has no amount as {name}", entry[name])
            amounts[name] = amount
    if not amounts:
        raise _unusable(place, "has neither per_run nor per_second", dict(entry))
    currency = entry.get("currency", "USD")
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise _unusable(place, "has no currency such as USD", currency)
    conditions = {name: entry[name] for name in _CONDITIONS if entry.get(name) is not None}
    if bad := next((name for name, value in conditions.items() if not isinstance(value, str)), None):
        raise _unusable(place, f"has a {bad} that is no text", conditions[bad])
    if version is not None and conditions.setdefault("version", version) != version:
        raise _unusable(place, "names two versions", conditions["version"])
    return Price(**amounts, currency=currency, **conditions)


def _unusable(place: str, problem: str, value: object) -> VaceInputError:
    remedy = 'give prices such as {"prunaai/vace-14b": {"per_run": 0.40}}, or with "per_second"'
    return VaceInputError(
        f"The table of prices ({place}) {problem}: {excerpt(repr(value), 100)}; {remedy}.",
        field="prices",
        value=value,
        remedy=remedy,
    )
