"""The decision whether a poll's answer under another id is about the requested prediction.

Gateways have ids of their own, and polls of these ids bring the vendor's object with the vendor's id. A
confused cache or proxy also brings another id, with the state of another prediction: a wrong video, or a
failure that leads to a second payment. The other members distinguish the two cases:

* A known member contradicts (model, seed, prompt, or a creation before the known one): refused.
* The create already named the other id in its `urls`, or the time of creation is equal: accepted.
* Neither: a running state is accepted, and an end only after two answers in a row under the same other id, or
  with the same end: some gateways name each request and not the prediction.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from airflow_vace.core.references import id_in_url
from airflow_vace.redaction import without_signatures

if TYPE_CHECKING:
    from airflow_vace.prediction import Prediction

# Two servers' clocks agree within this.
_MAX_CLOCK_DIFFERENCE_SECONDS = 60.0


def is_confirmed(known: Prediction, latest: Prediction) -> bool:
    """Return True if nothing more is needed to believe an answer, whatever id the answer names.

    :param known: the state before the answer
    :param latest: the answer, with the requested id
    """
    other_id = latest.upstream_id
    if other_id in (None, known.upstream_id) or other_id in map(id_in_url, known.urls.values()):
        return True
    created = _created(latest)
    # Two predictions of a batch are created in the same second, hence whole seconds prove nothing.
    return created is not None and created.microsecond > 0 and created == _created(known)


def is_same_end(earlier: Prediction | None, latest: Prediction) -> bool:
    """Return True if two answers in a row report the same end of the same prediction, whatever their ids."""
    if earlier is None or earlier.status != latest.status or earlier.error != latest.error:
        return False
    if latest.has_output:
        return without_signatures(str(earlier.output)) == without_signatures(str(latest.output))
    return latest.completed_at is not None and earlier.completed_at == latest.completed_at


def contradiction(known: Prediction, latest: Prediction) -> str | None:
    """Return the member that shows another prediction in an answer under another id; None without one.

    :param known: the state before the answer
    :param latest: the answer, with the requested id
    """
    if is_confirmed(known, latest):
        return None
    if _differ(_full_name(known.model), _full_name(latest.model)):
        return "model"
    if _differ(known.seed, latest.seed):
        return "seed"
    if _differ(known.input.get("prompt"), latest.input.get("prompt")):
        return "prompt"
    created, before = _created(latest), _created(known)
    # A gateway may queue a prediction, so only an earlier creation is a contradiction.
    if created and before and (before - created).total_seconds() > _MAX_CLOCK_DIFFERENCE_SECONDS:
        return "created_at"
    return None


def _differ(one: object, other: object) -> bool:
    return one is not None and other is not None and one != other


def _full_name(model: str | None) -> str | None:
    # Gateways report internal names, so only a full `owner/name` can contradict.
    return model.lower() if model and "/" in model else None


def _created(prediction: Prediction) -> datetime | None:
    """Return the time of creation; None without a zone, because gateways write local times."""
    try:
        moment = datetime.fromisoformat(prediction.created_at or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else None
