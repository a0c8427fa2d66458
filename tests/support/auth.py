"""An auth manager with permissions by DAG, for tests of the video tab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails

# The user without permissions beyond those of all users; an admin may read all DAGs.
OUTSIDER = "outsider"


class PerDag(SimpleAuthManager):
    """Airflow's simple manager, but `outsider` may read only DAGs with ids that start with `open`."""

    def is_authorized_dag(self, *, user: Any, details: DagDetails | None = None, **kwargs: Any) -> bool:
        dag_id = details.id if details else None
        if user.username == OUTSIDER and not (dag_id or "").startswith("open"):
            return False
        return super().is_authorized_dag(user=user, details=details, **kwargs)
