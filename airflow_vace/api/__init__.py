"""The wire: back-ends as data, requests described as values, answers read by functions; no I/O.

Whoever carries a :class:`Request` returns a :class:`Response` and has it read here, so that the
synchronous and the asynchronous client cannot come to differ. The key goes into one header of
requests to one origin, the connection's own; see :meth:`Api.get`.
"""

from airflow_vace.api.answers import Page, read_list, read_prediction, read_probe, read_upload
from airflow_vace.api.refusals import may_create_again, read_error, read_failed_create, served_at
from airflow_vace.api.requests import (
    BACKENDS,
    Api,
    Backend,
    Form,
    Request,
    Response,
    read_known,
    read_reference,
)

__all__ = (
    "BACKENDS",
    "Api",
    "Backend",
    "Form",
    "Page",
    "Request",
    "Response",
    "may_create_again",
    "read_error",
    "read_failed_create",
    "read_known",
    "read_list",
    "read_prediction",
    "read_probe",
    "read_reference",
    "read_upload",
    "served_at",
)
