"""What operator and sensor share once a prediction exists: looking, ending, saving, canceling, failing.

Here, and only here, errors of the core become Airflow's: :class:`AirflowFailException` where another
attempt cannot help, the error itself where it can.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, get_args

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseOperator,
)

from airflow_vace.core.outcome import read_end
from airflow_vace.core.retry import Backoff, verdict_of
from airflow_vace.core.wait import Final, PollAgain, Wait
from airflow_vace.exceptions import (
    VaceError,
    VaceInputError,
    VaceProtocolError,
    VaceTransportError,
    excerpt,
)
from airflow_vace.inputs import literal
from airflow_vace.links import LINKS
from airflow_vace.prediction import PredictionStatus, first_count
from airflow_vace.task.rendering import label_text, oids_of_data, oids_of_references
from airflow_vace.task.state import RUNNING, is_ended, is_test_of_a_task, read_state
from airflow_vace.task.view import KEY as VIEW_KEY
from airflow_vace.task.view import view_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import NoReturn, Self

    from airflow.sdk import Context

    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction
    from airflow_vace.storage.destination import Destination

# How long after its deadline a deferred task is woken by Airflow if no triggerer does it.
DEFERRAL_GRACE_SECONDS = 300.0

# A task that is resumed while its first leg's end is still on its way to the scheduler is failed by it, as
# "finished with state success" although it was queued; seen up to some seconds after the deferral.
RESUME_AFTER_SECONDS = 10.0

# How often a wait goes back to a triggerer that gave it up: its machine may lack what this one has.
MOST_DEFERRALS = 3

# A killed task has some five seconds; one that ends by itself waits for its cancel.
_LONGEST_ON_KILL = 60.0

_MOST_LOOKS_FOR_OUTPUT = 4

_FAILURES = (
    *(VaceError, OSError, AirflowFailException),
    *(AirflowSensorTimeout, AirflowSkipException, AirflowTaskTimeout),
)


class WaitsForPrediction(BaseOperator):
    """Base of the tasks that wait for a prediction; not for use in a DAG."""

    operator_extra_links = LINKS

    vace_conn_id: str
    save_to: Any
    save_in: SaveIn
    cancel_on_kill: bool
    end_from_trigger: bool | None
    # The parameter `label`: Airflow's tasks have an attribute of that name, which its graph shows.
    video_label: Any = None
    _prediction: Prediction | None = None
    _ti: Any = None
    _context: Any = None
    # The label that an earlier leg has given the prediction.
    _known_label: str | None = None
    # The arguments of an instance of a mapped task, as Airflow has them until its templates are rendered.
    _given: Mapping[str, Any] | None = None
    _outlet_events: Any = None
    # Whether the triggerer has saved the files.
    _is_landed = False
    _canceling: Thread | None = None
    _shown: str | None = None

    # Whether it is for this task to stop a prediction that nobody waits for any more.
    owns_prediction = False

    def __new__(cls, *_: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        if kwargs.get("_airflow_from_mapped"):
            object.__setattr__(made, "_given", kwargs)
        return made

    def _do_render_template_fields(
        self, parent: Any, template_fields: Any, context: Context, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """Render what the DAG's file says, and nothing that came from XCom; mask what opens URLs in it."""
        from airflow_vace.storage.upload import mask_signatures

        given, is_own = self._given, parent is self
        if is_own:
            index = getattr(context.get("ti"), "map_index", -1)
            seen_oids.update(oids_of_data(self, given, index, jinja_env))
            seen_oids.difference_update(oids_of_references(given))
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        if is_own:
            self._given = None
            # Airflow keeps the rendered fields in its database, masked.
            fields = [getattr(self, name, None) for name in self.template_fields]
            mask_signatures([fields, [literal(field) for field in fields if isinstance(field, str)]])

    @cached_property
    def hook(self) -> VaceHook:
        from airflow_vace.hooks import VaceHook

        return VaceHook(self.vace_conn_id)

    def enter(self, context: Context) -> None:
        """Take from the context what is used of it; first thing in each of the task's processes."""
        self._ti = context.get("ti")
        self._context = context
        self._outlet_events = context.get("outlet_events")

    def show(self, prediction: Prediction | None, error: BaseException | None = None) -> None:
        """Note in XCom what the video tab shows, once for each status of a prediction, and at a failure."""
        status = prediction.status if prediction else None
        if self._ti is None or not self.do_xcom_push or (self._shown == status and error is None):
            return
        try:
            marked = self.marked(prediction) if prediction else None
            view = view_of(marked, self.vace_conn_id, self.known_input, error)
            self._ti.xcom_push(VIEW_KEY, view)
        except Exception as trouble:  # noqa: BLE001 - Airflow's own, of any kind: it is but a view
            self.log.warning("The video tab will not show this: %s", trouble)
        self._shown = status

    def destination(self) -> Destination | None:
        """Return where to save to, None if nothing shall be saved.

        :raises VaceInputError: if that is no place
        """
        from airflow_vace.storage.destination import Destination

        known = self.known_input if self.save_to else {}
        found = Destination.of(self.save_to, self._ti, known)
        if found is None or self._known_label is None:
            return found
        return replace(found, task={**found.task, "label": self._known_label})

    def check_destination(self) -> None:
        """Look whether what `save_to` names can be written to.

        :raises VaceInputError: if it can't
        :raises VaceTransportError: if its store could not be opened now, and nothing is paid for yet
        """
        from airflow_vace.storage.destination import Destination

        destination = Destination.of(self.save_to, self._ti)
        if destination is None:
            return
        try:
            doubt = destination.check()
        except VaceTransportError as error:
            if self.owns_prediction:
                raise
            doubt = str(error)
        if doubt:
            self.log.warning("%s", doubt)

    @property
    def known_input(self) -> Mapping[str, Any]:
        """The input as far as this task knows it; a sensor knows what the back-end echoes."""
        return {}

    def marked(self, prediction: Prediction) -> Prediction:
        """Return a prediction with this task's label and map index, and with the seed that was sent."""
        self._known_label = self._own_label() or prediction.label
        return replace(
            prediction,
            label=self._known_label,
            map_index=first_count(getattr(self._ti, "map_index", None)),
            seed=first_count(self.known_input.get("seed"), prediction.seed),
        )

    def _own_label(self) -> str | None:
        """Return the task's label, else that of an earlier leg, else the rendered `map_index_template`."""
        label = label_text(self.video_label) or self._known_label
        if label is not None or self.map_index_template is None:
            return label
        with suppress(Exception):  # Airflow renders it after the task once more, and says why it can't be
            template = self.get_template_env().from_string(self.map_index_template)
            return label_text(template.render(self._context))
        return label_text(getattr(self._ti, "rendered_map_index", None))

    def now(self) -> float:
        """Return the time that deadlines count by, in seconds since the epoch."""
        return self.hook.clock.confirmed(self.hook.wall_clock())

    def look(self, wait: Wait) -> Prediction | PollAgain:
        """Look once; return the prediction if it is final, else when to look again.

        What looks like a refusal is looked at again here until it is settled, so that it ends a wait
        alike in every mode.

        :raises VaceError: if waiting on has no sense
        """
        self._prediction = wait.prediction
        try:
            decision = self.hook.poll(wait, self.now)
        finally:
            self._prediction = wait.prediction
        if isinstance(decision, Final):
            return decision.prediction
        self.show(wait.prediction)
        return decision

    def defer_until_final(self, wait: Wait, gave_up: int = 0) -> NoReturn:
        """Hand the wait over to the triggerer; `execute_complete` goes on, with the deadline kept."""
        from airflow_vace.triggers import VacePredictionTrigger

        now = self.now()
        left = None if wait.deadline is None else max(wait.deadline - now, 0.0)
        prediction = self.marked(wait.prediction)
        destination = self.destination() if self.save_in == "triggerer" else None
        self.log.info("Waiting for prediction %s in the triggerer", wait.prediction.id)
        self.defer(
            trigger=VacePredictionTrigger(
                prediction=prediction.payload(),
                vace_conn_id=self.vace_conn_id,
                deadline=wait.deadline,
                poll_interval=wait.poll_interval,
                cancel_on_kill=self.cancel_on_kill and self.may_cancel(),
                destination=destination.as_json() if destination else None,
                end_from_trigger=self._may_end_there(),
                do_xcom_push=self.do_xcom_push,
                not_before=time.time() + RESUME_AFTER_SECONDS,
            ),
            method_name="execute_complete",
            kwargs={"deadline": wait.deadline, "gave_up": gave_up},
            timeout=None if left is None else timedelta(seconds=left + DEFERRAL_GRACE_SECONDS),
        )

    def _may_end_there(self) -> bool:
        """Whether a success may end in the triggerer: if asked for, or by itself, but never at a loss."""
        from airflow_vace.task.triggerer import can_end_tasks, lost_by_ending

        if self.end_from_trigger is False or (self.end_from_trigger is None and self.save_to):
            return False
        if not can_end_tasks():
            lost = ["its result, with Airflow below 3.3,"]
        else:
            lost = lost_by_ending(self, getattr(self._ti, "map_index", -1))
        if lost and self.end_from_trigger:
            self.log.warning("A worker ends this task, since %s would be lost without it", ", ".join(lost))
        return not lost

    def result_of(self, prediction: Prediction) -> dict[str, Any]:
        """Return the payload of a prediction that has ended well, saved if that was asked for.

        :raises VaceError: if it has ended otherwise, or its file could not be saved
        """
        from airflow_vace.storage.save import save_output

        prediction = self.marked(prediction)
        destination = self.destination()
        is_saved = self._is_landed or destination is None or destination.holds(prediction, self.hook.timing)
        if prediction.files and not is_saved and prediction.has_expired_at(self.now()):
            self.log.warning(
                "What was saved is not at save_to, and its server has deleted it since: %s", prediction.files
            )
            is_saved = True
        if prediction.files and is_saved:
            self._prediction = prediction
            self._announce(self._with_input(prediction))
            return prediction.payload()
        is_to_save = destination is not None
        prediction = self._prediction = self._with_output(replace(prediction, files=[]), is_to_save)
        if prediction.has_expired_at(self.now()) and (saved := self.files_saved(prediction.id)):
            self.log.info("Prediction %s is saved already: its files are at save_to", prediction.id)
            prediction = self._prediction = replace(prediction, files=saved)
            self._announce(self._with_input(prediction))
            return prediction.payload()
        read_end(prediction, self.now())
        if destination is not None:
            if not prediction.output_urls:
                raise VaceProtocolError(
                    f"Prediction {prediction.id} succeeded, but its output is no file that could be saved to"
                    f" {destination.save_to}: {excerpt(str(prediction.output), 200)}. {prediction.bill}"
                )
            prediction = self._with_input(prediction)
            files = save_output(self.hook, prediction, destination)
            prediction = self._prediction = replace(prediction, files=files)
        elif not prediction.fits_payload:
            raise _too_large(prediction)
        self.log.info("Prediction %s succeeded after %s", prediction.id, _duration(prediction))
        self._announce(self._with_input(prediction))
        return prediction.payload()

    def files_saved(self, prediction_id: str) -> list[dict[str, Any]] | None:
        """Return what `save_to` holds of a prediction already, by its manifests; None if that is nothing."""
        destination = self.destination()
        if destination is None:
            return None
        from airflow_vace.storage.find import find_saved

        return find_saved(self.hook, destination, prediction_id)

    def _with_input(self, prediction: Prediction) -> Prediction:
        """Return a prediction with its input, which payloads leave out, if somebody is to be told of it."""
        if prediction.input or self.known_input or not (self.save_to or self.outlets):
            return prediction
        with suppress(VaceError):  # a nicety: nothing of value is lost without it
            told = self.hook.get_prediction(prediction)
            return replace(prediction, input=told.input)
        return prediction

    def _announce(self, prediction: Prediction) -> None:
        """Tell Airflow's assets and lineage of the video, so that others can run on it."""
        from airflow.sdk import Asset, AssetAlias

        from airflow_vace.storage.lineage import report_output

        for file in prediction.files:
            report_output(self.hook, file["uri"])
        if self._outlet_events is None:
            return
        extra = {**self._event_extra(prediction), "files": prediction.files}
        for outlet in self.outlets:
            if isinstance(outlet, AssetAlias):
                for file in prediction.files:
                    self._outlet_events[outlet].add(Asset(uri=file["uri"], name=file["uri"]), extra=extra)
            elif isinstance(outlet, Asset):
                self._outlet_events[outlet].extra.update(extra)

    def _event_extra(self, prediction: Prediction) -> dict[str, Any]:
        first = prediction.files[0] if prediction.files else {}
        return {
            "prediction_id": prediction.id,
            "uri": first.get("uri"),
            "sha256": first.get("sha256"),
            "seed": first_count(prediction.seed, prediction.input.get("seed")),
            "map_index": prediction.map_index,
            "label": prediction.label,
            "metrics": prediction.metrics,
        }

    def _with_output(self, prediction: Prediction, is_to_save: bool) -> Prediction:  # noqa: FBT001 - one call
        """Return a success with its output: some servers lag behind, and a payload holds no `data:` URL.

        What signs an address stands in no payload either, so the back-end is asked again before a download.

        :raises VaceError: if that address could not be had
        """
        backoff = Backoff(timing=self.hook.timing)
        trouble: VaceError | None = None
        for attempt in range(_MOST_LOOKS_FOR_OUTPUT):
            succeeded = prediction.status is PredictionStatus.SUCCEEDED
            is_there = prediction.has_output and not (is_to_save and prediction.is_shortened)
            if not succeeded or is_there or prediction.data_removed:
                return prediction
            if attempt:
                time.sleep(backoff.next_delay())
            try:
                prediction = prediction.updated(self.hook.get_prediction(prediction))
            except VaceError as error:
                trouble = error
                self.log.warning("Prediction %s told no output: %s", prediction.id, error)
        if is_to_save and prediction.is_shortened and trouble is not None:
            raise trouble
        return prediction

    def on_kill(self) -> None:
        """Cancel the prediction if the task has ended for good, on its worker; best effort.

        A SIGTERM does not say who sent it, so Airflow is asked for the task's state: a person's mark
        cancels; a worker that is stopped does not, if another attempt comes that goes on with the
        prediction; nor does a clear.
        """
        prediction = self._prediction
        if prediction is None or prediction.status.is_final:
            return
        if not self.may_cancel():
            self.log.warning("Killed; prediction %s may be another task's: it is left running", prediction.id)
        elif not self.cancel_on_kill:
            self.log.warning(
                "Killed; prediction %s is left running and is billed (cancel_on_kill=False)",
                prediction.id,
            )
        elif self._is_kept() and not isinstance(sys.exception(), AirflowTaskTimeout):
            # In a thread: the signal may have come in the midst of another question to Airflow.
            self._canceling = Thread(target=self._cancel_if_ended, args=(prediction,), name="vace-on-kill")
            self._canceling.start()
        else:
            self.cancel(prediction)

    @contextmanager
    def until_canceled(self) -> Iterator[None]:
        """Let what `on_kill` has begun come to its end: Airflow ends the process with all its threads."""
        try:
            yield
        except _FAILURES as error:
            self.show(self._prediction, error)
            raise
        finally:
            if self._canceling is not None:
                self._canceling.join(_LONGEST_ON_KILL)

    def may_cancel(self) -> bool:
        """Return True unless the prediction is another task's, or may be."""
        return not is_test_of_a_task()

    def _is_kept(self) -> bool:
        """Whether another attempt, if one comes, knows of the prediction and goes on with it."""
        return self._ti is not None

    def _is_last_attempt(self) -> bool:
        """Whether Airflow runs this task no more by itself."""
        tried, most = getattr(self._ti, "try_number", None), getattr(self._ti, "max_tries", None)
        return isinstance(tried, int) and isinstance(most, int) and tried > most

    def _cancel_if_ended(self, prediction: Prediction) -> None:
        try:
            state = read_state(self._ti)
        except Exception as error:  # noqa: BLE001 - Airflow's own trouble, of any kind: don't cancel then
            self.log.warning(
                "Prediction %s is not canceled, since the task's state could not be read (%s): if nobody runs"
                " the task again, it runs, and is billed, to its end",
                prediction.id,
                error,
            )
            return
        is_left = state == RUNNING and self._is_last_attempt()
        if is_ended(state) or (is_left and self.owns_prediction):
            self.cancel(prediction)
            return
        who = "and this was its last attempt; it runs on" if is_left else "its next attempt goes on with it"
        self.log.info("Prediction %s is not canceled: the task is %s, %s", prediction.id, state, who)

    def cancel(self, prediction: Prediction) -> Prediction | None:
        """Cancel a prediction, and return what became of it, None if it could not be told to stop."""
        canceled = self.hook.fresh().stop_prediction(prediction)
        self._prediction = canceled or prediction
        return canceled

    @property
    def linked_prediction(self) -> Prediction | None:
        """The prediction that the task's links lead to."""
        return self._prediction


SaveIn = Literal["worker", "triggerer"]


def checked_save_in(save_in: object, save_to: object, *, defers: bool) -> None:
    """Raise ValueError, at import of the DAG, for a place of saving that cannot be."""
    if save_in not in get_args(SaveIn):
        raise ValueError(f"save_in is {save_in!r}; it must be 'worker' or 'triggerer'")
    if save_in == "triggerer" and (save_to is None or not defers):
        raise ValueError(
            "save_in='triggerer' needs save_to, and a task that waits in the triggerer: deferrable=True"
        )


def checked_end(end_from_trigger: bool | None, save_to: object, save_in: object) -> None:  # noqa: FBT001
    """Raise ValueError, at import of the DAG, for an end in the triggerer that would lose the video."""
    if end_from_trigger not in (None, True, False):
        raise ValueError(f"end_from_trigger is {end_from_trigger!r}; it must be True, False or None")
    if end_from_trigger and save_to is not None and save_in != "triggerer":
        raise ValueError(
            "end_from_trigger=True leaves no worker to save the video: add save_in='triggerer', or leave it"
            " out, which ends there whenever nothing is lost"
        )


def can_be_looked_at_again(error: Exception) -> bool:
    """Return True if an attempt that only polls and saves again, which costs nothing, may end better."""
    return verdict_of(error, "poll").later


@contextmanager
def translated(can_heal: Callable[[Exception], bool] = lambda _: False) -> Iterator[None]:
    """Raise errors as Airflow's; as they are, and so retried, where `can_heal` says that it can help."""
    try:
        yield
    except (VaceError, OSError) as error:
        if can_heal(error):
            raise
        raise AirflowFailException(str(error)) from error


_LONGEST_SECONDS = 365 * 86400


def checked_seconds(name: str, value: object) -> None:
    """Raise ValueError, at import of the DAG, for a duration that is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= _LONGEST_SECONDS:  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r}; it must be a positive number of seconds, a year at most")


def _too_large(prediction: Prediction) -> VaceInputError:
    count = len(prediction.output_urls)
    what = "a data: URL" if count == 1 else f"a list of {count} URLs" if count else "text, or an object"
    return VaceInputError(
        f"Prediction {prediction.id} succeeded, and its output is {what}, which is too large or too nested"
        f" for XCom. {prediction.bill} Set save_to, and fetch it with a VacePredictionSensor on this id"
        " within the hour.",
        field="save_to",
        remedy="set save_to to a directory",
    )


def _duration(prediction: Prediction) -> str:
    seconds = prediction.metrics.get("total_time") or prediction.metrics.get("predict_time")
    return f"{seconds:.0f} s" if isinstance(seconds, int | float) else "a time that it does not tell"
