"""The Videos tab: an Airflow plugin, its routes in the API server, and one script."""
