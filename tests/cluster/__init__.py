"""A whole Airflow on PostgreSQL, in parts that tests kill and start again."""

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
