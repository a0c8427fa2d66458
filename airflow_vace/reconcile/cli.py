"""`vace-reconcile`: find the predictions of an account that no task of Airflow knows."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_vace.exceptions import VaceError
from airflow_vace.prediction import parse_time
from airflow_vace.reconcile.airflow_api import AirflowApi, Login, NotCheckedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_vace.core.responses import Page
    from airflow_vace.hooks import VaceHook
    from airflow_vace.prediction import Prediction
    from airflow_vace.reconcile.report import Report

_EPILOG = """
Environment: AIRFLOW_CLI_TOKEN, a token of Airflow's REST API; or AIRFLOW_CLI_PASSWORD, for --username.
Exit status: 0 without orphans, 1 with orphans, 2 if account and Airflow could not be compared.
"""
_NOT_CHECKED = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vace-reconcile",
        description="Compare the predictions of a vendor's account with those that Airflow knows: each is"
        " ours (DAG, run, task), an orphan (submitted by a task that does not know it), or foreign.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--conn-id", default="vace_default", help="connection of the account (%(default)s)")
    parser.add_argument(
        "--since", type=_moment, required=True, help="date or ISO 8601 time, UTC unless it names a zone"
    )
    parser.add_argument(
        "--airflow-url", help="base URL of Airflow's API server (default: [api] base_url of this machine)"
    )
    parser.add_argument("--username", help="user of Airflow, without AIRFLOW_CLI_TOKEN")
    parser.add_argument(
        "--operator",
        action="append",
        default=[],
        metavar="CLASS",
        help="name of a subclass of this package's operators; may be repeated",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with a row for each prediction, instead of text"
    )
    return parser


def _moment(text: str) -> datetime:
    moment = parse_time(text)
    if moment is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: give 2026-11-01 or 2026-11-01T08:00:00+00:00")
    if moment > datetime.now(UTC):
        raise argparse.ArgumentTypeError(f"{text!r} is in the future: give the start of the time to check")
    return moment


def options_of(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line (default: this program's)."""
    return _parser().parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Print the report, and return the exit status: 0, 1 with orphans, 2 if not checked."""
    options = options_of(argv)
    try:
        # Airflow logs to standard output, which belongs to the report.
        with contextlib.redirect_stdout(sys.stderr), _reading_connections():
            report = _report_of(options)
    except VaceError as error:
        print(f"vace-reconcile: {error}", file=sys.stderr)
        return _NOT_CHECKED
    if options.json:
        print(json.dumps(report.as_json()))
    else:
        print("\n".join(report.lines()))
    return report.exit_code


@contextlib.contextmanager
def _reading_connections() -> Iterator[None]:
    """Let Airflow read connections from its database too, as `airflow connections get` does."""
    name = "_AIRFLOW_PROCESS_CONTEXT"
    before = os.environ.get(name)
    os.environ[name] = "server"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _report_of(options: argparse.Namespace) -> Report:
    # Airflow loads for seconds, and wrong options are an error at once.
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    from airflow_vace.hooks import VaceHook
    from airflow_vace.reconcile.comparison import Limits, compare, traceless
    from airflow_vace.reconcile.known import read_known
    from airflow_vace.reconcile.report import Report
    from airflow_vace.submission.connections import account_of

    hook = VaceHook(options.conn_id)
    try:
        account = account_of(hook)
    except AirflowNotFoundException:
        raise NotCheckedError(
            f"Airflow knows no connection {options.conn_id!r} here: correct --conn-id, or set"
            f" AIRFLOW_CONN_{options.conn_id.upper()}"
        ) from None
    if not hook.lists_predictions:
        raise NotCheckedError(
            f"The back-end of {options.conn_id!r} documents no list of predictions: give a --conn-id of the"
            " vendor's own API with a key of the same account, or set the connection's extra lists to true if"
            " the gateway has the list"
        )
    with AirflowApi(_login_of(options), hook.timing) as api:
        has_records = api.open()
        # The account comes first, so a record written meanwhile explains a listed prediction.
        pages = _pages_of(hook, options.since)
        predictions = [found for page in pages for found in page.predictions]
        known = read_known(api, options.since, options.operator, has_records=has_records)
    limits = Limits(account=account, arrival=timedelta(seconds=hook.timing.max_create_seconds))
    findings = compare(predictions, known, limits)
    unreadable = sum(len(page.unreadable) for page in pages)
    listing = f"The account's list has {unreadable} predictions that can't be read; look there."
    return Report(
        conn_id=options.conn_id,
        origin=account.origin,
        since=options.since,
        findings=findings,
        charge=hook.pricing.charge,
        cancel_command=_cancel_command_of(hook),
        traceless=traceless(findings, known, limits, options.since),
        troubles=[*([listing] if unreadable else []), *known.troubles],
        has_records=known.has_records,
    )


def _pages_of(hook: VaceHook, since: datetime) -> list[Page]:
    """Return all pages of the account's list; read the list again after a transient failure."""
    from airflow_vace.core.retry import Backoff, is_lasting

    backoff = Backoff(timing=hook.timing)
    for _ in range(hook.timing.max_airflow_attempts - 1):
        try:
            return list(hook.list_pages(since.isoformat()))
        except VaceError as error:
            if is_lasting(error):
                raise
            time.sleep(backoff.delay_after(error))
    return list(hook.list_pages(since.isoformat()))


def _login_of(options: argparse.Namespace) -> Login:
    from airflow.providers.common.compat.sdk import conf

    token, password = os.environ.get("AIRFLOW_CLI_TOKEN"), os.environ.get("AIRFLOW_CLI_PASSWORD")
    if options.username and not (token or password):
        raise NotCheckedError("AIRFLOW_CLI_PASSWORD is not set: set the password of --username there")
    url = options.airflow_url or conf.get("api", "base_url", fallback="") or "http://localhost:8080"
    return Login(url=url, token=token, username=options.username, password=password)


def _cancel_command_of(hook: VaceHook) -> Callable[[Prediction], str]:
    """Return a function that returns a shell command, with a variable in place of the key."""
    api = hook.settings.api

    def command(prediction: Prediction) -> str:
        header = f"{api.backend.key_header}: {api.backend.key_form.format(key='$API_KEY')}"
        return f'curl -X POST -H "{header}" {shlex.quote(api.cancel(prediction).url)}'

    return command


if __name__ == "__main__":
    sys.exit(main())
