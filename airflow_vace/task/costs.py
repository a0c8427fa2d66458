"""Cost of a prediction, for payload, manifest and asset event."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_vace.core.pricing import HOW_TO_PRICE, PER_RUN, Cost, read_amount
from airflow_vace.exceptions import VaceError
from airflow_vace.prediction import PredictionStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_vace.core.pricing import Price
    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction


def cost_of(hook: VaceHook, prediction: Prediction, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON form of a prediction's cost, by the present prices.

    A saved result of another run costs nothing; the member `saved` is then the cost of another prediction.
    A bad table of prices must not cost a video, so the cost is unknown then, and the log has the reason.

    :param values: the input, as far as known; the prediction's own input comes first
    """
    try:
        price = hook.pricing.price_of(prediction.model, prediction.version, {**values, **prediction.input})
    except VaceError as error:
        hook.log.warning("The cost of prediction %s is unknown: %s", prediction.id, error)
        return Cost().as_json()
    if price is None:
        hook.log.debug("The cost of prediction %s is unknown; %s", prediction.id, HOW_TO_PRICE)
        return Cost().as_json()
    return _saved_cost(price, prediction) if prediction.reused else price.charge(prediction).as_json()


def order_cost(reference: Prediction | None, prediction: Prediction) -> dict[str, Any] | None:
    """Return the JSON form of a prediction's cost by the payload of the submitting task.

    None for a price by the second, whose amount depends on the end, and without a cost in the payload.

    :param reference: a sensor's argument, None for another task
    """
    cost = reference.cost if reference is not None else None
    if cost is None or cost.get("basis") != PER_RUN or read_amount(cost.get("amount")) is None:
        return None
    # The members for all attempts of the submitting task stay with its own payload.
    known: dict[str, Any] = {
        name: cost[name] for name in ("amount", "currency", "basis", "saved") if name in cost
    }
    # The vendor charges nothing for an aborted prediction.
    return {**known, "amount": _ZERO} if prediction.status is PredictionStatus.ABORTED else known


def _saved_cost(price: Price, prediction: Prediction) -> dict[str, Any]:
    avoided = price.charge(replace(prediction, reused=False)).as_json()
    return {**price.of_seconds(0).as_json(), "amount": _ZERO, "saved": avoided["amount"]}


_ZERO = Cost(amount=Decimal()).as_json()["amount"]
