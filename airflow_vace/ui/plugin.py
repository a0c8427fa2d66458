"""The plugin that shows a run's videos in Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin
from airflow.providers.common.compat.sdk import conf

from airflow_vace import __version__
from airflow_vace.ui import OPERATOR_NAMES, REVIEW_NAMES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]

PREFIX = "/vace"
ICONS = {"icon": "icon.svg", "icon_dark_mode": "icon-dark.svg"}


class _Routes:
    """The ASGI application, created with the first request."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        # Every Airflow process imports plugins, so FastAPI and the models load only where a request arrives.
        if self._app is None:
            from airflow_vace.ui.routes import new_app

            self._app = new_app()
        await self._app(scope, receive, send)


def _scopes_tabs() -> bool:
    """Return True if this Airflow can restrict a tab to some operators (3.4 and later)."""
    # Ask for the feature, not for the version: pre-releases of 3.4 have it too.
    from airflow.api_fastapi.core_api.datamodels import plugins

    return hasattr(plugins, "PluginAppliesToResponse")


def tabs(*, is_scoped: bool | None = None) -> list[dict[str, Any]]:
    """Return the page of the navigation and the tabs, in the form of Airflow's `react_apps`.

    :param is_scoped: True if a tab can be restricted to some operators; by default Airflow decides
    """
    # Airflow may be served below a prefix, and browsers cache the script until the version changes.
    path = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
    script = {"bundle_url": f"{path}{PREFIX}/tab.js?version={__version__}"}
    gallery = {"name": "Videos", "destination": "dag_run", "url_route": "vace_videos", **script}
    # Without `nav_top_level` a page stands in the menu of plugins.
    library: dict[str, Any] = {
        "name": "Videos",
        "destination": "nav",
        "url_route": "vace_library",
        "nav_top_level": True,
        **{name: f"{path}{PREFIX}/{file}" for name, file in ICONS.items()},
        **script,
    }
    tab: dict[str, Any] = {
        "name": "Video",
        "destination": "task_instance",
        "url_route": "vace_video",
        **script,
    }
    if _scopes_tabs() if is_scoped is None else is_scoped:
        return [library, gallery, {**tab, "applies_to": {"operator_name": [*OPERATOR_NAMES, *REVIEW_NAMES]}}]
    is_wanted = conf.getboolean("vace", "task_tab", fallback=False)
    return [library, gallery, tab] if is_wanted else [library, gallery]


class VacePlugin(AirflowPlugin):
    """A page with the videos of all runs, a gallery on each DAG run, and a tab on the provider's tasks.

    Before Airflow 3.4 a tab appears on every task of every DAG, so the setting `[vace] task_tab` enables the
    tab there.
    """

    name = "vace"
    fastapi_apps: list[Any] = [{"app": _Routes(), "url_prefix": PREFIX, "name": "VACE videos"}]  # noqa: RUF012 - Airflow declares a list

    @property
    def react_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The tabs, computed when the UI first requests them."""
        # Configuration is not complete while Airflow imports plugins.
        if self._known_tabs is None:
            type(self)._known_tabs = tabs()  # noqa: SLF001 - its own class
        return self._known_tabs or []

    _known_tabs: ClassVar[list[dict[str, Any]] | None] = None
