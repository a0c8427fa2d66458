"""The video tab: an Airflow plugin, its routes in the API server, and one hand-written script."""
