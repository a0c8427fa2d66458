"""Each reader of third-party text keeps its promises for any bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing.readers import READERS

CASES = sorted(path for path in Path(__file__).parent.joinpath("cases").glob("*/*"))


@pytest.mark.parametrize("name", READERS)
@given(data=st.binary(max_size=512))
def test_no_bytes_break_a_readers_promise(name: str, data: bytes) -> None:
    READERS[name](data)


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_earlier_finding_does_not_return(case: Path) -> None:
    READERS[case.parent.name](case.read_bytes())
