"""Refusals of servers, and predictions that end without a video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.emulator.faults import rate_limited
from support.mistakes import SECRET, Mistake, Scene, row

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator.faults import Fault


def _preset(fault: Fault | str) -> Callable[[Scene], object]:
    """Return a fault of the create."""

    def make(scene: Scene) -> object:
        scene.server.faults.add(fault)
        return scene.submit()

    return make


def _refused(status: int, body: Any, content_type: str = "application/json") -> Callable[[Scene], object]:
    """Return a refusal of the create."""

    def make(scene: Scene) -> object:
        headers = {"Content-Type": content_type, "Location": "https://a.example/"}
        scene.server.faults.add(method="POST", status=status, headers=headers, body=body)
        return scene.submit()

    return make


def _ends(**outcome: Any) -> Callable[[Scene], object]:
    """Return the end of a prediction that a task waits for."""

    def make(scene: Scene) -> object:
        scene.server.faults.add(method="POST", outcome=outcome)
        return scene.video()

    return make


def _wrong_key(scene: Scene) -> object:
    scene.connect(password=SECRET)
    return scene.submit()


FREE = "Nothing is billed"
PAGE = "<html><head><title>Forbidden</title></head></html>"
WEBSITE = ("an HTML page", "check the connection's host, port and api_prefix")
CHECK = "check the vendor's list of predictions"
PAID: dict[str, Any] = {"posts": 1, "billed": 1}
MISTAKES = (
    row(
        "401: a wrong key",
        _wrong_key,
        "401",
        "Invalid token",
        "check the connection's password",
        FREE,
        posts=1,
    ),
    row(
        "402: no credit",
        _refused(402, {"detail": "No credit."}),
        "402",
        "No credit.",
        "top it up",
        FREE,
        posts=1,
    ),
    row(
        "403: no permission", _refused(403, {"detail": "No."}), "403", "check its permissions", FREE, posts=1
    ),
    row("403: no credit at a gateway", _preset("no_money"), "quota exhausted", "top it up", FREE, posts=1),
    row(
        "403: no credit, in Chinese",
        _refused(403, {"error": {"message": "用户额度不足", "code": "x"}}),
        *("用户额度不足", "(in English: the user's quota is exhausted)", "top it up", FREE),
        posts=1,
    ),
    row(
        "503: no channel, in Chinese",
        _refused(503, {"error": {"message": "无可用渠道", "type": "new_api_error"}}),
        *("无可用渠道", "(in English: no channel is available)", "check the model's name", FREE),
        posts=1,
    ),
    row(
        "404: an unknown model",
        _refused(404, {"detail": "Not found."}),
        "the model",
        "api_prefix",
        FREE,
        posts=1,
    ),
    row("413: too large", _refused(413, {"detail": "Too large"}), "413", "give a URL instead", FREE, posts=1),
    row(
        "429",
        _preset(rate_limited("seconds", 9999, times=None)),
        "wait",
        "a pool",
        FREE,
        outcome="retries",
        posts=1,
    ),
    row(
        "500: a lost response",
        _refused(500, {"detail": "Oops"}),
        "500: Oops",
        CHECK,
        "and be billed",
        posts=1,
    ),
    row("502 after the acceptance", _preset("accepted_then_502"), "502", CHECK, "and be billed", **PAID),
    row("a log-in page", _preset("login_page"), "Please sign in", *WEBSITE, CHECK, posts=1),
    row("403: a page of a proxy", _refused(403, PAGE, "text/html"), "'Forbidden'", *WEBSITE, FREE, posts=1),
    row(
        "a redirect",
        _refused(301, ""),
        "https://a.example/",
        "final address into the connection's host",
        posts=1,
    ),
    row("no text and no JSON", _preset("garbage"), "an unexpected response", CHECK, posts=1),
    row(
        "the model runs out of memory",
        _ends(status="failed", error="E1001: CUDA out of memory"),
        *("CUDA out of memory. It may be billed", "choose a smaller size", "frame_num"),
        **PAID,
    ),
    row(
        "the model refuses the content",
        _ends(status="failed", error="NSFW content detected. Try a different prompt."),
        *("NSFW content detected", "a different prompt. It may be billed", "Change the input"),
        **PAID,
    ),
    row(
        "the model's host fails",
        _ends(status="failed", error="E8765: interrupted; please retry"),
        *("interrupted", "Another run with the same input may succeed"),
        outcome="retries",
        **PAID,
    ),
    row(
        "a person cancels",
        _ends(status="canceled"),
        "canceled",
        "billed for the time",
        "Run it again",
        **PAID,
    ),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.id)
def test_a_refusal_is_explained(mistake: Mistake, explain: Any) -> None:
    explain(mistake)
