"""Generate video with prunaai/vace-14b, or any model behind a Replicate-compatible API, from Airflow."""

__version__ = "0.1.0"
