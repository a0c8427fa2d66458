"""The plugin that shows a run's videos in Airflow; cheap to import, since every Airflow process does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin
from airflow.providers.common.compat.sdk import conf

from airflow_vace import __version__

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]

PREFIX = "/vace"
# What Airflow calls our tasks (`operator_name`); tabs of other tasks are none of our business.
OPERATOR_NAMES = ("VacePredictionOperator", "VacePredictionSensor", "@task.vace")


class _Routes:
    """The routes, made with the first request: FastAPI and the database's models are no matter of workers."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if self._app is None:
            from airflow_vace.ui.routes import new_app

            self._app = new_app()
        await self._app(scope, receive, send)


def _scopes_tabs() -> bool:
    """Whether this Airflow shows a tab only on those tasks that it is meant for (3.4 and later)."""
    from airflow.api_fastapi.core_api.datamodels import plugins

    return hasattr(plugins, "PluginAppliesToResponse")


def _tabs() -> list[dict[str, Any]]:
    path = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
    script = {"bundle_url": f"{path}{PREFIX}/tab.js?version={__version__}"}
    gallery = {"name": "Videos", "destination": "dag_run", "url_route": "vace_videos", **script}
    tab: dict[str, Any] = {
        "name": "Video",
        "destination": "task_instance",
        "url_route": "vace_video",
        **script,
    }
    if _scopes_tabs():
        return [gallery, {**tab, "applies_to": {"operator_name": list(OPERATOR_NAMES)}}]
    is_wanted = conf.getboolean("vace", "task_tab", fallback=False)
    return [gallery, tab] if is_wanted else [gallery]


class VacePlugin(AirflowPlugin):
    """A gallery of a DAG run's videos, and a tab of the video on each task instance of ours.

    Before Airflow 3.4 a tab would stand on every task of every DAG; there it is shown only if
    `[vace] task_tab` says so.
    """

    name = "vace"
    fastapi_apps: list[Any] = [{"app": _Routes(), "url_prefix": PREFIX, "name": "VACE videos"}]  # noqa: RUF012 - as Airflow has it

    @property
    def react_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The tabs, worked out when the UI asks for them."""
        if self._known_tabs is None:
            type(self)._known_tabs = _tabs()  # noqa: SLF001 - its own class
        return self._known_tabs or []

    _known_tabs: ClassVar[list[dict[str, Any]] | None] = None
