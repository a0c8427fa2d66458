"""Comparison of an account's predictions with Airflow's records: `vace-reconcile`."""
