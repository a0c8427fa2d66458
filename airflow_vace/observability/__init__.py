"""Metrics, spans and lineage of tasks, by Airflow's own set-up."""
