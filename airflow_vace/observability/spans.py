"""Spans of submit, wait and save, by Airflow's set-up of OpenTelemetry (`[traces] otel_on`).

A span becomes a child of the current span: on a worker Airflow's span of the task, in a triggerer Airflow's
span of the trigger. Attributes follow https://github.com/open-telemetry/semantic-conventions-genai. No
attribute has a prompt, and no event has the message of an exception, which could quote one.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airflow_vace.prediction import Prediction

    Labels = Callable[[Prediction | None], Mapping[str, str]]
    Describe = Callable[[Prediction], None]

Step = Literal["submit", "wait", "save"]


@cache
def is_on() -> bool:
    """Return True if Airflow exports spans; read once in a process."""
    from airflow.providers.common.compat.sdk import conf

    return bool(conf.getboolean("traces", "otel_on", fallback=False))


def _ignore(_: Prediction) -> None:
    """Describe nothing, without a receiver of spans."""


@contextmanager
def traced(step: Step, labels: Labels) -> Iterator[Describe]:
    """Record a step as the span `vace.submit`, `vace.wait` or `vace.save`.

    The context is a function for the prediction, whose id, version, seed and status become attributes.

    :param labels: returns model and back-end of a prediction, or of the task for None; see
        :meth:`airflow_vace.observability.metrics.TaskMetrics.labels`
    """
    if not is_on():
        yield _ignore
        return
    from opentelemetry.trace import SpanKind, StatusCode, get_tracer

    found: list[Prediction] = []
    # The exception's message is left out, since a refusal can quote the prompt.
    with get_tracer("airflow_vace").start_as_current_span(
        f"vace.{step}",
        kind=SpanKind.CLIENT if step == "submit" else SpanKind.INTERNAL,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield found.append
        except Exception as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            prediction = found[-1] if found else None
            span.set_attributes(_attributes(prediction, labels(prediction)))


def _attributes(prediction: Prediction | None, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the known attributes of a span."""
    known: dict[str, Any] = {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": labels.get("backend"),
        "gen_ai.request.model": labels.get("model"),
    }
    if prediction is not None:
        known |= {
            "gen_ai.response.id": prediction.id,
            "gen_ai.request.seed": prediction.seed,
            "vace.model.version": prediction.version,
            "vace.prediction.status": str(prediction.status),
            "vace.reused": prediction.reused or None,
        }
    return {name: value for name, value in known.items() if value not in (None, "")}
