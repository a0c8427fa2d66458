"""Airflow's public REST API (`/api/v2`), read with the rights of one user."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.util import Retry

from airflow_vace.exceptions import VaceError
from airflow_vace.redaction import excerpt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_vace.core.timing import Timing

# The maximum of a page without another `[api] maximum_page_limit`.
_PAGE_SIZE = 100
# Members that identify a row of a list, as far as a list has them; regions come with Airflow 3.4.
_IDENTITY = ("dag_id", "dag_run_id", "run_id", "task_id", "map_index", "region_id", "region_index", "key")
_REGION = ("region_id", "region_index")
# Airflow 3.3 brings the task state store.
_FIRST_WITH_STATE = (3, 3)
_HOW_TO_LOG_IN = "set AIRFLOW_CLI_TOKEN, or --username and AIRFLOW_CLI_PASSWORD"


class NotCheckedError(VaceError):
    """Raised if account and Airflow could not be compared; the message names the remedy."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """Address and user of an Airflow.

    :param url: base URL of the API server
    :param token: a JWT; otherwise user name and password get one at `/auth/token`
    """

    url: str
    token: str | None = field(default=None, repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)


class AirflowApi:
    """Reads task instances, XComs and state stores; a context that closes its session.

    :param login: address and user
    :param timing: limits of requests and repetitions
    :raises NotCheckedError: for an unusable address
    """

    def __init__(self, login: Login, timing: Timing) -> None:
        parts = urlsplit(login.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise NotCheckedError(
                f"{excerpt(login.url)!r} is no address of an Airflow API server: give --airflow-url such as"
                " https://airflow.example.com"
            )
        self.url = login.url.rstrip("/")
        self._login = login
        self._timing = timing
        self._session = requests.Session()
        # A GET changes nothing, so a busy server or a proxy in trouble gets further tries.
        retry = Retry(
            total=timing.max_airflow_attempts,
            backoff_factor=timing.min_retry_seconds,
            backoff_max=timing.max_retry_seconds,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=("GET",),
            raise_on_status=False,
            respect_retry_after_header=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def open(self) -> bool:
        """Log in, and return True if this Airflow has task state stores.

        :raises NotCheckedError: if no Airflow answers there, or the log-in is refused
        """
        text = self._get("/version").get("version")
        numbers = str(text).split(".")
        if len(numbers) < 2 or not (numbers[0].isdecimal() and numbers[1].isdecimal()):
            raise NotCheckedError(f"{self.url} is no Airflow of version 3: correct --airflow-url")
        self._session.auth = _Bearer(self._login.token or self._new_token())
        return (int(numbers[0]), int(numbers[1])) >= _FIRST_WITH_STATE

    def task_instances(self, since: str, operators: Iterable[str]) -> list[dict[str, Any]]:
        """Return the task instances of operators that have changed since an ISO 8601 time."""
        query = {"updated_at_gte": since, "operator": list(operators), "order_by": "id"}
        return self._rows("/dags/~/dagRuns/~/taskInstances", "task_instances", query)

    def task_instance(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Return the task instance of a row of any list, None if deleted."""
        index = row.get("map_index", -1)
        path = instance_path(row) + ("" if index < 0 else f"/{index}")
        return self._find(path, _coordinates(row) if row.get("region_id") is not None else {})

    def state(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the state store of a task instance: values by key."""
        path = f"{instance_path(row)}/state-store"
        found = self._rows(path, "task_state_store", _coordinates(row))
        return {entry["key"]: entry.get("value") for entry in found}

    def xcoms(self, key: str) -> list[dict[str, Any]]:
        """Return the rows of all XComs with a key, without values."""
        path = "/dags/~/dagRuns/~/taskInstances/~/xcomEntries"
        return self._rows(path, "xcom_entries", {"xcom_key": key})

    def xcom(self, row: dict[str, Any], key: str) -> Any:
        """Return the value of a task instance's XCom, None without one."""
        path = f"{instance_path(row)}/xcomEntries/{quote(key, safe='')}"
        return (self._find(path, _coordinates(row)) or {}).get("value")

    # --- requests ----------------------------------------------------------------------------------

    def _rows(self, path: str, member: str, query: dict[str, Any]) -> list[dict[str, Any]]:
        """Return all rows of a paged list."""
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for _ in range(self._timing.max_airflow_attempts):
            offset = total = 0
            while offset == 0 or offset < total:
                page = self._get(path, {**query, "limit": _PAGE_SIZE, "offset": offset})
                rows, total = page.get(member) or [], page.get("total_entries") or 0
                if not rows:
                    break
                found |= {tuple(row.get(name) for name in _IDENTITY): row for row in rows}
                offset += len(rows)
            # A task that starts or is cleared meanwhile shifts the pages, so a row may have been skipped.
            if len(found) >= total:
                return list(found.values())
        raise NotCheckedError(
            f"Airflow's list at {self.url} changed during each reading; run the command again at a"
            " quieter time"
        )

    def _get(self, path: str, query: dict[str, Any] | None = None) -> dict[str, Any]:
        found = self._find(path, query)
        if found is None:
            raise NotCheckedError(
                f"{self.url}/api/v2{path} was answered with 404: correct --airflow-url, the address of"
                " Airflow's API server"
            )
        return found

    def _find(self, path: str, query: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the object at a path, None for a 404."""
        response = self._send("GET", f"/api/v2{path}", params=query)
        if response.status_code == 404:
            return None
        if response.status_code == 401:
            raise NotCheckedError(f"Airflow at {self.url} refused the log-in (401): {_HOW_TO_LOG_IN}")
        if response.status_code == 403:
            raise NotCheckedError(
                f"Airflow at {self.url} refused {path} (403): the user needs to read task instances and XComs"
            )
        return self._object_in(response, path)

    def _new_token(self) -> str:
        """Return a JWT for user name and password; without both, for an Airflow without users."""
        login = self._login
        if login.username and login.password:
            body = {"username": login.username, "password": login.password}
            response = self._send("POST", "/auth/token", json=body)
        else:
            # An Airflow with `simple_auth_manager_all_admins` gives a token to everybody.
            response = self._send("GET", "/auth/token")
        token = None
        if response.ok:
            with suppress(ValueError, AttributeError):
                token = response.json().get("access_token")
        if not isinstance(token, str) or not token:
            raise NotCheckedError(
                f"Airflow at {self.url} gave no token ({response.status_code}): {_HOW_TO_LOG_IN}"
            )
        return token

    def _object_in(self, response: requests.Response, path: str) -> dict[str, Any]:
        data = None
        if response.status_code == 200:
            with suppress(ValueError):
                data = response.json()
        if not isinstance(data, dict):
            raise NotCheckedError(
                f"{self.url}/api/v2{path} was answered with {response.status_code} and no JSON of Airflow:"
                f" {excerpt(response.text, 200) or 'an empty body'}. Correct --airflow-url, or run the"
                " command again"
            )
        return data

    def _send(self, method: str, path: str, **given: Any) -> requests.Response:
        try:
            # A redirect could lead the password to another host.
            return self._session.request(
                method,
                self.url + path,
                timeout=self._timing.max_airflow_seconds,
                allow_redirects=False,
                **given,
            )
        except requests.RequestException as error:
            raise NotCheckedError(
                f"Airflow at {self.url} can't be reached ({type(error).__name__}): correct --airflow-url, or"
                " run the command again"
            ) from None


class _Bearer(AuthBase):
    """The token of each request; with an `auth`, requests does not read the person's `.netrc`."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def instance_path(row: dict[str, Any]) -> str:
    """Return the path of a task instance, from a row of task instances or XComs."""
    run_id = row.get("dag_run_id") or row.get("run_id") or ""
    names = [quote(str(name), safe="") for name in (row["dag_id"], run_id, row["task_id"])]
    return "/dags/{}/dagRuns/{}/taskInstances/{}".format(*names)


def _coordinates(row: dict[str, Any]) -> dict[str, Any]:
    """Return the query that distinguishes the instances of a task."""
    if row.get("region_id") is None:
        return {"map_index": row.get("map_index", -1)}
    return {name: row[name] for name in _REGION if row.get(name) is not None}
