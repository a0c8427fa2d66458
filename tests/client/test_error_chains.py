"""No cause of an error shows a secret, because Airflow logs the entire chain of causes."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, cast

import pytest
from urllib3.exceptions import ReadTimeoutError

from airflow_vace.client.failures import shown_cause
from airflow_vace.core.requests import Request
from airflow_vace.exceptions import VaceError
from airflow_vace.hooks import VaceHook
from airflow_vace.redaction import excerpt, is_showable
from conftest import scale_waits
from support.faces import FOX
from support.scripted import connection_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_vace.emulator import Emulator
    from support.faces import Call

SIGNATURE = "exp=1800000000~hmac=5ecret5ecret5ecret"


def shown(error: BaseException) -> str:
    """Return all texts of an error that may reach a log."""
    texts = []
    for link in chain(error):
        texts += [str(link), repr(link), repr(link.args), repr(vars(link))]
    return "\n".join([*texts, *traceback.format_exception(error)])


def chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def fetched(url: str) -> None:
    with VaceHook().open_file(url) as download:
        b"".join(download.chunks)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 403, "body": "denied"},
        {"status": 302, "headers": {"Location": f"http://127.0.0.1:1/b.mp4?hdnts={SIGNATURE}"}},
        {"status": 302, "headers": {"Location": f"http://10.0.0.1/b.mp4?hdnts={SIGNATURE}"}},
        {"status": 302, "headers": {"Location": f"https://127.0.0.1:1/b.mp4?hdnts={SIGNATURE}"}},
        {"status": 302, "headers": {"Location": f"http://nobody.invalid/b.mp4?hdnts={SIGNATURE}"}},
        {"status": 302, "headers": {"Location": f"http://[bad/b.mp4?hdnts={SIGNATURE}"}},
        {"status": 302, "headers": {"Location": f"/a.mp4?hdnts={SIGNATURE}"}},
        {"reset": "before"},
        {"hang": "before"},
    ],
    ids=str,
)
def test_a_failed_download_shows_no_signature_in_any_cause(slow: Emulator, fault: dict[str, Any]) -> None:
    slow.faults.add(path="/a.mp4", times=None, **fault)
    with pytest.raises(VaceError) as caught:
        fetched(f"{slow.url}/a.mp4?hdnts={SIGNATURE}")
    assert "5ecret" not in shown(caught.value)


def test_an_unanswered_download_shows_no_signature(slow: Emulator) -> None:
    for url in ("http://127.0.0.1:1/a.mp4", "http://127.0.0.1/a.mp4", "https://films.invalid/a.mp4"):
        for query in (f"hdnts={SIGNATURE}", "5ecret5ecret", "X-Amz-Signature=5ecret"):
            with pytest.raises(VaceError) as caught:
                fetched(f"{url}?{query}")
            assert "5ecret" not in shown(caught.value)
    assert slow.requests == []


def test_an_error_with_the_address_in_an_attribute_is_no_cause() -> None:
    address = f"/a.mp4?hdnts={SIGNATURE}"
    request = Request(verb="file", method="GET", url=f"https://films.example{address}", headers={})
    error = ReadTimeoutError(cast("Any", None), address, "Read timed out")
    assert "5ecret" not in f"{error} {error!r}", "the texts alone would show nothing"
    assert shown_cause(error, request) is None


def test_an_error_without_secrets_keeps_its_cause(slow: Emulator) -> None:
    with pytest.raises(VaceError) as caught:
        fetched(f"http://127.0.0.1:1/{slow.port}.mp4")
    assert len(list(chain(caught.value))) > 1


@pytest.mark.parametrize("where", ["connection", "environment"])
@pytest.mark.parametrize("host", ["http://far.example", "https://far.example"])
@pytest.mark.parametrize(
    "proxy",
    [
        "me:5ecret@127.0.0.1:1",
        "http://me:5ecret@127.0.0.1:1",
        "http://me:5ecret@nobody.invalid:1",
        "http://me:5ecret@x",
    ],
)
def test_a_failed_proxy_shows_no_password_in_any_cause(  # noqa: PLR0917 - fixtures
    call: Call,
    connect: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    host: str,
    proxy: str,
) -> None:
    scale_waits(monkeypatch, 1.0, max_create_attempts=1)
    extra: dict[str, Any] = {"timeout": 2}
    if where == "connection":
        extra["proxies"] = proxy
    else:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("https_proxy", proxy)
    connect(connection_to(host, **extra))
    with pytest.raises(VaceError) as caught:
        call("create", FOX)
    assert "5ecret" not in shown(caught.value)
    assert "5ecret" not in VaceHook().test_connection()[1]


def test_a_proxy_refusing_its_user_shows_no_password(
    call: Call, slow: Emulator, connect: Callable[[str], None]
) -> None:
    proxy = f"http://me:5ecret@127.0.0.1:{slow.port}"
    connect(connection_to("https://far.example", timeout=2, proxies=proxy))
    with pytest.raises(VaceError) as caught:
        call("get", "abc")
    assert "5ecret" not in shown(caught.value)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Cannot connect to me:5ecret@proxy:3128 now", "Cannot connect to …@proxy:3128 now"),
        ("me:5ecret@127.0.0.1", "…@127.0.0.1"),
        ("me:5e@cret@proxy", "…@proxy"),
        ("'http:me:5ecret@[::1]:3128'", "'…@[::1]:3128'"),
        ("//me:5ecret@proxy", "//…@proxy"),
        ("write to me@example.com", "write to me@example.com"),
        ("mailto:me@example.com", "mailto:me@example.com"),
        ("From: me@example.com, sip:you@example.com", "From: me@example.com, sip:you@example.com"),
        ("12345:5ecret@proxy:3128", "…@proxy:3128"),
        ("_svc:5ecret@proxy", "…@proxy"),
        ("scott:5e/cret@proxy:3128", "…@proxy:3128"),
        ("to:5ecret@proxy:1, from:5ecret@proxy, contact:5ecret@[::1]:1", "…@proxy:1, …@proxy, …@[::1]:1"),
        ("CORP%5Cscott:5ecret@proxy", "…@proxy"),
        ("films.example:8080/a@2x.mp4", "films.example:8080/a@2x.mp4"),
        ("a fox at 10:30@night, 16:9@24fps", "a fox at 10:30@night, 16:9@24fps"),
        ("https://films.example:8080/a@2x.mp4", "https://films.example:8080/a@2x.mp4"),
        ('{"prompt": "a fox", "by": "me@example.com"}', '{"prompt": "a fox", "by": "me@example.com"}'),
    ],
)
def test_credentials_without_a_scheme_are_shortened_too(text: str, left: str) -> None:
    assert excerpt(text) == left
    assert is_showable(text) is (text == left)
