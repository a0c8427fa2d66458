"""All durations and limits of repetition in a single value, for tests to scale together."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Durations in seconds, and how often a step is repeated.

    `VaceHook.timing` hands the value down to clients, poller, tasks, submission and storage.
    """

    # Retries: pauses grow between these bounds; jitter shortens them.
    min_retry_seconds: float = 2.0
    max_retry_seconds: float = 15.0
    # A vendor's files live for an hour, so a longer Retry-After is cut to this.
    max_retry_after_seconds: float = 300.0
    max_create_attempts: int = 6
    max_create_seconds: float = 120.0
    # Turns of creates: a waiting create asks this often if it is still wanted.
    max_create_pause_seconds: float = 1.0
    # A first create, or the first after a 429, goes alone until its answer, or for this time.
    max_create_probe_seconds: float = 2.0
    create_probe_poll_seconds: float = 0.05
    # Longer waits for a turn are logged, at most once in the interval.
    create_notice_seconds: float = 5.0
    create_notice_interval_seconds: float = 60.0
    max_cancel_attempts: int = 3
    max_upload_attempts: int = 3
    max_model_attempts: int = 3
    max_list_pages: int = 200

    # Waits: the first gap between two polls, and how late the end of a prediction may be noticed.
    first_poll_gap_seconds: float = 2.0
    min_poll_gap_seconds: float = 0.5
    max_poll_delay_seconds: float = 10.0
    # Guard against `poll_interval=0`, which would busy-loop.
    min_poll_interval_seconds: float = 0.05
    max_auth_refusals: int = 5
    # Replicas lag behind a create, so a 404 ends a wait only after some time.
    max_not_found: int = 8
    not_found_grace_seconds: float = 10.0
    # A secrets back-end in trouble denies a connection for a moment.
    min_missing_connections: int = 5
    missing_connection_grace_seconds: float = 60.0
    cold_boot_notice_seconds: float = 30.0
    # Two clocks agree within this: `Date` has whole seconds, and a request takes time.
    clock_tolerance_seconds: float = 30.0

    # The shared poller and its rate limit.
    settings_refresh_seconds: float = 180.0
    min_settings_refresh_seconds: float = 1.0
    slow_poll_seconds: float = 1.0
    list_round_seconds: float = 1.0
    max_list_round_seconds: float = 10.0
    default_hold_seconds: float = 1.0
    first_probe_seconds: float = 1.0
    max_probe_seconds: float = 30.0
    # Without any answer for this time, a server counts as down even if only predictions in trouble are left.
    max_silence_seconds: float = 60.0

    # Transport.
    max_connect_seconds: float = 10.0
    max_cancel_seconds: float = 15.0
    min_upload_seconds: float = 120.0
    # Time beyond a request's timeout in which the next piece of a file must come.
    piece_grace_seconds: float = 30.0
    # Servers close an idle connection after a minute or more; reusing a closed one would fail a request.
    max_idle_connection_seconds: float = 15.0
    # A server sends its TLS alert before it closes, so the alert is there within a round trip.
    tls_alert_seconds: float = 1.0

    # Submission.
    server_cancel_grace_seconds: float = 60.0
    # A create may still be on its way, and a list may lag behind it.
    lost_create_lookup_seconds: float = 10.0
    intent_grace_seconds: float = 30.0
    max_trouble_seconds: float = 60.0
    max_lost_creates: int = 3
    max_output_polls: int = 4

    # Storage.
    max_download_attempts: int = 5
    max_download_seconds: float = 1800.0
    # A transfer that takes longer logs its progress, each time that this interval has passed.
    slow_download_seconds: float = 10.0
    # A download with less than 64 KiB in this time is broken off and resumed.
    stalled_download_seconds: float = 30.0
    max_write_attempts: int = 3
    max_lock_seconds: float = 10.0
    stale_part_seconds: float = 3600.0
    max_trigger_save_seconds: float = 600.0
    max_trigger_saves: int = 4
    # A video of a batch waits for a worker this long at most; a vendor deletes it after an hour.
    max_unsaved_seconds: float = 1500.0

    # Tasks.
    deferral_grace_seconds: float = 300.0
    # The scheduler fails a task that resumes before the end of its first leg was processed, with "finished
    # with state success although it was queued"; delays of some seconds were seen.
    min_deferral_seconds: float = 10.0
    max_deferrals: int = 3
    # Airflow leaves a killed task about five seconds; a task that ends by itself waits for its cancel.
    max_on_kill_seconds: float = 60.0
    signed_url_grace_seconds: float = 900.0
    max_trigger_search_seconds: float = 300.0
    # A server may ask for more time than lies between two pokes of a sensor.
    max_poke_hold_seconds: float = 60.0

    # Reconciliation: requests to Airflow's REST API.
    max_airflow_attempts: int = 3
    max_airflow_seconds: float = 60.0

    # Videos tab: one poll serves all browsers for this long, and a signature stays valid for longer.
    progress_refresh_seconds: float = 5.0
    signed_url_refresh_seconds: float = 60.0

    def scaled(self, factor: float, **exceptions: Any) -> Self:
        """Return the same limits with all durations multiplied, except durations given by name."""
        durations = {
            f.name: getattr(self, f.name) * factor for f in fields(self) if f.name.endswith("_seconds")
        }
        return replace(self, **{**durations, **exceptions})
