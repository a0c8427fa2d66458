"""Multipart forms of one file."""

from __future__ import annotations

from io import BytesIO

import pytest

from airflow_vace.core.multipart import Form


@pytest.mark.parametrize("size", [3, 5])
def test_a_form_sends_the_announced_length_or_fails(size: int) -> None:
    form = Form(BytesIO(b"film!"), name='a "b".mp4', content_type="video/mp4", size=size)
    sent = b"".join(form)
    assert len(sent) == len(form)
    assert b'filename="a__b_.mp4"' in sent
    assert b"\r\n\r\n" + b"film!"[:size] + b"\r\n--" in sent
    short = Form(BytesIO(b"fi"), name="a", content_type="video/mp4", size=3)
    with pytest.raises(OSError, match="shorter by"):
        b"".join(short)
