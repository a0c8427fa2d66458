"""An auth manager whose users may read some DAGs and not others, for the tests of the video tab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails

# Whom nothing is open to but what everybody has; an admin may read all.
STRANGER = "stranger"


class PerDag(SimpleAuthManager):
    """Airflow's simple manager, but `stranger` may read only DAGs whose id begins with `open`."""

    def is_authorized_dag(self, *, user: Any, details: DagDetails | None = None, **kwargs: Any) -> bool:
        dag_id = details.id if details else None
        if user.username == STRANGER and not (dag_id or "").startswith("open"):
            return False
        return super().is_authorized_dag(user=user, details=details, **kwargs)
