"""Checks, posters and control inputs of local video files.

All functions take paths of local files. PyAV, Pillow and numpy (the extra `video`) are imported at the first
call of a function, so a DAG file may import this package for free.
"""

from __future__ import annotations

__all__ = (
    "ControlInput",
    "Expected",
    "Limits",
    "VideoExtraMissing",
    "VideoFacts",
    "VideoUnreadable",
    "between",
    "check",
    "contact_sheet",
    "extend",
    "inpaint",
    "inspect",
    "join",
    "last_frame",
    "outpaint",
    "poster",
    "problems",
)

from airflow_vace.video.control import ControlInput, between, extend, inpaint, outpaint
from airflow_vace.video.errors import VideoExtraMissing, VideoUnreadable
from airflow_vace.video.facts import VideoFacts, inspect
from airflow_vace.video.joining import join, last_frame
from airflow_vace.video.posters import contact_sheet, poster
from airflow_vace.video.problems import Expected, Limits, check, problems
