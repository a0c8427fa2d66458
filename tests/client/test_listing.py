"""The account's list: an unreadable item hides no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_vace.exceptions import VaceProtocolError
from airflow_vace.hooks import VaceHook

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator
    from support.faces import Call

ODD = {"id": "b c", "status": "starting", "created_at": "2026-01-02T00:00:00Z"}
WITHOUT_STATUS = {"id": "def", "created_at": "2026-01-03T00:00:00Z"}


def known(identifier: str, day: int = 4) -> dict[str, Any]:
    return {"id": identifier, "status": "starting", "created_at": f"2026-01-0{day}T00:00:00Z"}


@pytest.fixture
def lists(slow: Emulator, connect: Callable[[str], None]) -> Emulator:
    connect(slow.connection_to(backend="replicate"))
    return slow


def test_unreadable_items_are_left_out_of_a_list_with_one_warning(
    call: Call, lists: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    results = [known("first"), ODD, None, WITHOUT_STATUS, "text", known("last")]
    lists.faults.add(status=200, body={"results": results})
    assert [found.id for found in call("list")] == ["first", "last"]
    assert capfd.readouterr().out.count("2 items that can't be read") == 1


def test_pages_hold_unreadable_items_as_they_came(lists: Emulator) -> None:
    following = f"{lists.url}/v1/predictions?cursor=2"
    lists.faults.add(status=200, body={"results": [known("first"), ODD], "next": following})
    lists.faults.add(status=200, body={"results": [WITHOUT_STATUS, None], "next": None})
    first, last = VaceHook().list_pages()
    assert [found.id for found in first.predictions] == ["first"]
    assert (first.unreadable, first.following) == ((ODD,), following)
    assert (last.predictions, last.unreadable, last.following) == ((), (WITHOUT_STATUS,), None)


def test_pages_leave_out_older_predictions(lists: Emulator) -> None:
    without_time = {"id": "g h"}
    results = [known("new", 5), known("old", 1), ODD, WITHOUT_STATUS, without_time]
    lists.faults.add(status=200, body={"results": results})
    (page,) = VaceHook().list_pages(created_after="2026-01-02T12:00:00Z")
    assert [found.id for found in page.predictions] == ["new"]
    assert page.unreadable == (WITHOUT_STATUS, without_time)


def test_pages_keep_predictions_whose_local_time_may_be_newer(lists: Emulator) -> None:
    local = {"id": "local", "status": "starting", "created_at": "2026-01-02T04:00:00"}
    old = {"id": "old", "status": "starting", "created_at": "2026-01-01T20:00:00"}
    lists.faults.add(status=200, body={"results": [local, old]})
    (page,) = VaceHook().list_pages(created_after="2026-01-02T12:00:00Z")
    assert [found.id for found in page.predictions] == ["local"]


def test_an_answer_that_is_no_list_is_an_error(call: Call, lists: Emulator) -> None:
    lists.faults.add(status=200, body={"detail": "soon"})
    with pytest.raises(VaceProtocolError):
        call("list")
