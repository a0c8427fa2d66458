"""A whole Airflow in parts, each of which can be killed and started again; on PostgreSQL and loopback."""

from cluster.airflow import Airflow
from cluster.processes import kill_tree, table, tree, until
from cluster.servers import POSTGRES, Postgres, Redis, Vendor, postgres

__all__ = [
    "POSTGRES",
    "Airflow",
    "Postgres",
    "Redis",
    "Vendor",
    "kill_tree",
    "postgres",
    "table",
    "tree",
    "until",
]
