"""Progress bars in logs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_vace.progress import Progress


def test_progress_is_read_from_a_tqdm_line() -> None:
    assert Progress.from_logs(" 38%|███▊      | 19/50 [00:30<00:48,  1.57s/it]") == Progress(
        38, 19, 50, 48.0, 1.57
    )


def test_the_newest_of_several_bars_is_read() -> None:
    logs = (
        "Loading: 100%|██████████| 5/5 [00:04<00:00,  1.25it/s]\n"
        "  0%|          | 0/50 [00:00<?, ?it/s]\r 40%|████      | 20/50 [00:31<00:47,  1.57s/it]"
    )
    assert Progress.from_logs(logs) == Progress(40, 20, 50, 47.0, 1.57)


@pytest.mark.parametrize(
    ("bar", "eta", "rate"),
    [
        (" 10%|█| 5/50 [00:01<1:02:03, 2.00it/s]", 3723.0, 0.5),
        (" 10%|█| 5/50 [00:01<?, ?it/s]", None, None),
        (" 10%|█| 5/50 [00:01<00:09]", 9.0, None),
        (" 10%|█| 5/50 [00:01<00:09, 0.00s/it]", 9.0, None),
        (" 10%|█| 5/50 [00:01<00:09, 1.2.3s/it]", 9.0, None),
    ],
)
def test_eta_and_rate_come_in_all_forms(bar: str, eta: float | None, rate: float | None) -> None:
    progress = Progress.from_logs(bar)
    assert progress is not None
    assert (progress.eta, progress.seconds_per_step) == (eta, rate)


@pytest.mark.parametrize("logs", [None, "", "no bar", "50%", "45%|██| 1.2G/2.8G [00:10<00:12, 120MB/s]"])
def test_without_a_bar_there_is_no_progress(logs: str | None) -> None:
    assert Progress.from_logs(logs) is None


def test_percent_never_exceeds_a_hundred() -> None:
    progress = Progress.from_logs("104%|█| 52/50 [00:01<00:09, 1.00s/it]")
    assert progress is not None
    assert progress.percent == 100


@given(st.text() | st.from_regex(r"[0-9 %|/\[\]<:,\rits.]{0,200}"))
def test_any_text_is_read_without_an_error(logs: str) -> None:
    Progress.from_logs(logs)


def test_only_the_newest_few_hundred_bars_are_read() -> None:
    step, decode = "20%|█| 10/50 [00:10<00:40, 1.00s/it]\n", "50%|█| 5/10 [00:05<00:05, 1.00s/it]\r"
    near = Progress.from_logs(step + decode * 100, 50)
    far = Progress.from_logs(step + decode * 1000, 50)
    assert near is not None
    assert (near.step, near.is_of_steps) == (10, True)
    assert far is not None
    assert (far.step, far.is_of_steps) == (5, False)
