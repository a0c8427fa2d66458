"""When to look at a prediction next, and what an answer or an error means: decisions, no I/O, no sleep."""

from airflow_vace.polling.backoff import Backoff, next_create
from airflow_vace.polling.clock import Clock
from airflow_vace.polling.ends import read_end, timed_out
from airflow_vace.polling.pace import Pace
from airflow_vace.polling.pages import Pages
from airflow_vace.polling.schedule import Experience, Schedule
from airflow_vace.polling.waits import (
    Decision,
    Final,
    GiveUp,
    LookAgain,
    Wait,
    is_not_found,
    is_passing,
    is_refusal,
)

__all__ = (
    "Backoff",
    "Clock",
    "Decision",
    "Experience",
    "Final",
    "GiveUp",
    "LookAgain",
    "Pace",
    "Pages",
    "Schedule",
    "Wait",
    "is_not_found",
    "is_passing",
    "is_refusal",
    "next_create",
    "read_end",
    "timed_out",
)
