"""The pages of `docs/`: all code blocks run, and all links have a target."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from airflow_vace.core.pricing import Pricing
from airflow_vace.inputs import normalize_input
from airflow_vace.prediction import Prediction
from airflow_vace.throwaway import free_port
from airflow_vace.video import inspect
from support import clips
from support.films import MP4
from support.pages import BLOCK, BLOCKS, PAGES, ROOT, SHOWN, blocks, dag_file, missing_line
from support.stores import files_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_vace.emulator import Emulator

DAGS = [(page, text) for page, kind, text in BLOCKS if kind == "python" and "with DAG(" in text]


# The place of a DAG's output among the outputs of its page.
OUTPUTS = {
    **{("ways", number): number for number in range(3)},
    **{(page, 0): 0 for page in ("a-thousand-videos", "many-videos", "s3-to-s3")},
    ("from-httpoperator", 1): 0,
}


def test_each_block_is_of_a_tested_kind() -> None:
    tests = ("bash", "console", "ini", "json", "python", "text")
    assert sorted({kind for _, kind, _ in BLOCKS}) == sorted(tests)
    assert [page for page, kind, _ in BLOCKS if kind == "console"] == ["readme", "readme"]
    assert [page for page, kind, _ in BLOCKS if kind == "ini"] == ["screens"]


def test_each_output_on_a_page_is_compared_with_a_run() -> None:
    assert sorted(page for page, kind, _ in BLOCKS if kind == "text") == sorted(
        [
            *("readme", "first-video", "testing", "each-day"),
            *("a-thousand-videos", "from-httpoperator", "many-videos", "many-videos", "s3-to-s3"),
            *("ways", "ways", "ways", "cost-and-retries", "cost-and-retries"),
            *("checks", "checks", "control-videos", "control-videos", "production"),
            # tests/reconcile/test_cli.py
            "reconcile",
        ]
    )


def test_each_python_block_is_on_a_page_whose_blocks_run() -> None:
    assert {page for page, kind, _ in BLOCKS if kind == "python"} == {
        *("readme", "a-thousand-videos", "checks", "control-videos", "cost-and-retries", "each-day"),
        *("first-video", "from-httpoperator", "many-videos", "reconcile", "review", "s3-to-s3", "testing"),
        # test_reference.py
        *("ways", "emulator", "files", "hook", "retries-and-money"),
    } - {"first-video"}


@pytest.mark.parametrize(
    ("page", "number", "charged"),
    [
        ("s3-to-s3", 0, 2),
        ("many-videos", 0, 3),
        ("a-thousand-videos", 0, 3),
        ("checks", 0, 1),
        ("checks", 1, 1),
        ("ways", 0, 1),
        ("ways", 1, 3),
        ("ways", 2, 2),
        ("cost-and-retries", 0, 1),
        ("cost-and-retries", 2, 2),
        ("from-httpoperator", 0, 1),
        ("from-httpoperator", 1, 1),
    ],
)
def test_the_dags_run(  # noqa: PLR0917 - pytest gives them by name
    fast_emulator: Emulator,
    airflow_db: str,
    memory: Any,
    connect: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    page: str,
    number: int,
    charged: int,
) -> None:
    for name in ("a.mp4", "b.mp4"):
        memory.pipe_file(f"/my-bucket/in/{name}", MP4)
    connect(fast_emulator.connection_to(prices={"prunaai/vace-14b": {"per_run": 0.40}}))
    host = fast_emulator.url.replace("http://", "http://:vace-emulator-key@")
    monkeypatch.setenv("AIRFLOW_CONN_VACE_HTTP", host)
    assert airflow_db
    run = runpy.run_path(str(dag_file(page, number)))["dag"].test()
    assert {str(ti.state) for ti in run.get_task_instances()} == {"success"}
    assert fast_emulator.bill["charged"] == charged
    if (page, number) in OUTPUTS:
        shown = blocks(page, "text")[OUTPUTS[page, number]]
        assert missing_line("".join(capfd.readouterr()), shown) is None
    if page == "s3-to-s3":
        assert len([name for name in files_in(memory) if name.endswith(".mp4") and "/out/" in name]) == 2


@pytest.mark.parametrize(("number", "state", "charged"), [(0, "failed", 1), (1, "success", 2)])
def test_a_black_clip_has_the_log_of_the_page_on_checks(  # noqa: PLR0917 - pytest gives them by name
    fast_emulator: Emulator,
    airflow_db: str,
    connect: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
    number: int,
    state: str,
    charged: int,
) -> None:
    connect(fast_emulator.connection)
    fast_emulator.faults.add("black_video")
    # The emulator's ids are those of another test, whose files would be the saved ones.
    shutil.rmtree(Path(airflow_db).parent / "clips", ignore_errors=True)
    run = runpy.run_path(str(dag_file("checks", number)))["dag"].test()
    assert [str(ti.state) for ti in run.get_task_instances()] == [state]
    assert missing_line("".join(capfd.readouterr()), blocks("checks", "text")[number]) is None
    assert fast_emulator.bill["charged"] == charged


def test_no_dag_is_left_out() -> None:
    assert sorted(page for page, text in DAGS if "def test_" not in text) == [
        *("a-thousand-videos", *["checks"] * 2, "control-videos", *["cost-and-retries"] * 4, "each-day"),
        *("files", *["from-httpoperator"] * 2, "many-videos", "readme", "review", "s3-to-s3"),
        *["testing"] * 2,
        *["ways"] * 3,
    ]


def test_a_summary_fails_and_sends_no_event_if_too_many_clips_are_missing(
    fast_emulator: Emulator, airflow_db: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fast_emulator.faults.add(method="POST", skip=1, outcome={"status": "failed", "error": "E1001 memory"})
    dag = runpy.run_path(str(dag_file("many-videos")))["dag"]
    with sqlite3.connect(airflow_db) as database:
        count = "SELECT count(*) FROM asset_event WHERE source_dag_id = 'catalogue'"
        (before,) = database.execute(count).fetchone()
        run = dag.test()
        (after,) = database.execute(count).fetchone()
    states = {(ti.task_id, ti.map_index): str(ti.state) for ti in run.get_task_instances()}
    assert (str(run.state), states["summary", -1]) == ("failed", "failed")
    (failed,) = [index for (task, index), state in states.items() if (task, state) == ("clip", "failed")]
    # `dag.test()` runs the instances of a mapped task in any order.
    name = ("Trail shoe", "Rain jacket", "Head lamp")[failed]
    shown = blocks("many-videos", "text")[1].replace("Rain jacket", name)
    assert missing_line("".join(capfd.readouterr()), shown) is None
    assert after == before


def test_each_day_pays_for_its_new_products_only(
    fast_emulator: Emulator, airflow_db: str, capfd: pytest.CaptureFixture[str]
) -> None:
    table, backfill = blocks("each-day", "bash")
    names = runpy.run_path(str(dag_file("each-day")))
    bash(table.replace("/tmp/clips", str(Path(names["SHOP"]).parent)), dict(os.environ))  # noqa: S108 - as on the page
    for day in (2, 3):
        run = names["dag"].test(logical_date=datetime(2026, 11, day, tzinfo=UTC))
        assert str(run.state) == "success"
    assert {str(ti.state) for ti in run.get_task_instances() if ti.task_id != "new_products"} == {"skipped"}
    assert missing_line("".join(capfd.readouterr()), blocks("each-day", "text")[0]) is None
    assert fast_emulator.bill["charged"] == 2
    with sqlite3.connect(names["SHOP"]) as shop:
        videos = dict(shop.execute("SELECT sku, video FROM products").fetchall())
    assert [sku for sku, uri in videos.items() if uri] == ["TR-101", "TR-102"]
    assert airflow_db
    assert "2026-11-08" in bash(backfill, dict(os.environ))


def test_the_dag_of_the_page_on_reviews_has_the_shape_of_the_tested_example() -> None:
    # A whole Airflow runs the example in the session `e2e`: `dag.test()` waits for a person without end.
    shown = runpy.run_path(str(dag_file("review")))["dag"]
    example = runpy.run_path(str(ROOT / "dags/vace_review.py"))["vace_review"]()
    assert set(shown.task_dict) == set(example.task_dict)
    for task_id, task in shown.task_dict.items():
        like = example.task_dict[task_id]
        assert type(task) is type(like)
        assert (task.downstream_task_ids, task.trigger_rule) == (like.downstream_task_ids, like.trigger_rule)
    assert shown.task_dict["again"].conf == example.task_dict["again"].conf
    for dag in (shown, example):
        body = dag.task_dict["review"].body
        assert all(part in body for part in ("plugin/vace_videos", "/poster?task_id=clip", "about $0.40"))


def test_the_prices_and_the_receipt_of_the_page_have_their_form() -> None:
    prices, receipt = map(json.loads, blocks("cost-and-retries", "json"))
    pricing = Pricing.read(prices, "the page")
    ended = Prediction.from_json({"id": "p", "status": "succeeded", "model": "prunaai/vace-14b"})
    assert pricing.charge(ended).as_json() == receipt
    assert pricing.knows("owner/model")


def run_pytest(folder: Path) -> str:
    """Run the tests of a folder in another process, without this project's settings."""
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:warnings")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder)],
        env={**os.environ, "PATH": path, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    return found.stdout


def test_the_tests_of_the_page_pass(tmp_path: Path, airflow_db: str) -> None:
    several, conftest, dag, whole, mapped, paired, other = blocks("testing", "python")
    head, _, _ = several.partition("def test_")
    # A database that exists already, since a new one takes long.
    home = Path(airflow_db).parent
    (tmp_path / "dags").mkdir()
    for name, text in (
        ("conftest.py", conftest.replace("tempfile.mkdtemp()", repr(str(home)))),
        ("dags/fox.py", dag),
        ("test_fox.py", whole),
        ("dags/clips.py", mapped),
        ("test_clips.py", paired),
        ("test_several.py", several),
        ("test_other.py", f"{head}\n{other}"),
    ):
        (tmp_path / name).write_text(text)
    (shown,) = blocks("testing", "text")
    # The page shows the output of its first block.
    assert missing_line(run_pytest(tmp_path), shown.replace("3", "6")) is None
    by_position = mapped.replace('{clip["label"]: ', "{name: ").replace(
        "for clip in clips}", "for name, clip in zip(NAMES, clips)}"
    )
    (tmp_path / "dags/clips.py").write_text(by_position)
    assert "1 failed, 5 passed" in run_pytest(tmp_path)


def test_the_dag_that_runs_each_night_pays_once(
    fast_emulator: Emulator,
    airflow_db: str,
    connect: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    connect(fast_emulator.connection)
    assert airflow_db
    dag = runpy.run_path(str(dag_file("cost-and-retries", 1)))["dag"]
    for _ in range(2):
        assert {str(ti.state) for ti in dag.test().get_task_instances()} == {"success"}
    assert fast_emulator.bill["charged"] == 1
    shown = blocks("cost-and-retries", "text")[0]
    assert missing_line("".join(capfd.readouterr()), shown) is None


def test_the_dry_run_of_a_dag_pays_nothing(
    fast_emulator: Emulator,
    airflow_db: str,
    connect: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    connect(fast_emulator.connection_to(prices={"prunaai/vace-14b": {"per_run": 0.40}}))
    assert airflow_db
    dag = runpy.run_path(str(dag_file("cost-and-retries", 3)))["dag"]
    assert {str(ti.state) for ti in dag.test().get_task_instances()} == {"skipped"}
    assert fast_emulator.bill["predictions"] == []
    shown = blocks("cost-and-retries", "text")[1]
    assert missing_line("".join(capfd.readouterr()), shown) is None


@pytest.mark.dags
def test_the_control_videos_of_the_page_are_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    street = list(clips.pan(np.random.default_rng(1), 832, 480, 21))
    for name in ("clip.mp4", "result.mp4"):
        clips.write(tmp_path / name, street)
    for name in ("first.png", "last.png"):
        Image.fromarray(street[0]).save(name)
    inputs = 0
    for block in (block for block in blocks("control-videos", "python") if "with DAG(" not in block):
        # Fewer frames are as good an example, and faster.
        names: dict[str, Any] = {}
        exec(block.replace("frames=81", "frames=21"), names)  # noqa: S102 - our own page
        if "inputs" in names:
            values, doubts = normalize_input(names["inputs"], paths=True)
            assert doubts == []
            assert Path(values["src_mask"].removeprefix("file://")).exists()
            inputs += 1
    assert inputs == 4
    assert names["problems"] == []
    shown = blocks("control-videos", "text")[1].replace("5.062", "1.312")  # 21 frames
    assert missing_line(capsys.readouterr().out, shown) is None
    assert {"long.mp4", "last.png", "result.jpg", "sheet.jpg"} <= {path.name for path in tmp_path.iterdir()}


def test_the_dag_with_control_videos_in_a_store_runs(  # noqa: PLR0917 - pytest gives them by name
    fast_emulator: Emulator,
    airflow_db: str,
    memory: Any,
    connect: Callable[[str], None],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    connect(fast_emulator.connection_to(backend="replicate"))
    source = clips.write(tmp_path / "a.mp4", clips.pan(np.random.default_rng(1), 832, 480, 21))
    memory.pipe_file("/my-bucket/in/a.mp4", source.read_bytes())
    dag = runpy.run_path(str(Path(airflow_db).parent / "dags" / "control-videos_0.py"))["dag"]
    assert {str(ti.state) for ti in dag.test().get_task_instances()} == {"success"}
    assert missing_line("".join(capfd.readouterr()), blocks("control-videos", "text")[0]) is None
    assert fast_emulator.bill["charged"] == 1
    (tmp_path / "long.mp4").write_bytes(files_in(memory)["/my-bucket/out/long.mp4"])
    assert inspect(tmp_path / "long.mp4").frames == 21 + 81 - 17


def bash(script: str, environment: dict[str, str]) -> str:
    # `airflow` and `vace-emulator` are those beside this Python.
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    found = subprocess.run(
        ["bash", "-euc", script],
        env=environment | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_the_commands_work(airflow_db: str) -> None:
    assert airflow_db
    for page, pool in (("many-videos", "vace"), ("production", "account-a")):
        (command,) = blocks(page, "bash")
        out = bash(command, dict(os.environ))
        assert pool in bash(f"airflow pools get {pool} -o plain", dict(os.environ))
        if page == "production":
            assert missing_line(out, blocks(page, "text")[0]) is None


def test_the_example_of_an_accounts_sum_and_the_options_of_the_command_work(
    fast_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_vace.hooks import VaceHook
    from airflow_vace.reconcile.cli import options_of

    prices = {"prunaai/vace-14b": {"per_run": 0.40}}
    monkeypatch.setenv("AIRFLOW_CONN_VACE_DEFAULT", fast_emulator.connection_to(lists=True, prices=prices))
    (code,), (command,) = blocks("reconcile", "python"), blocks("reconcile", "bash")
    VaceHook().create_prediction({"prompt": "a heron"})
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the page's own code
    spend = names["spent_since"](2026, 1)
    assert (spend["count"], spend["amounts"], spend["unpriced"]) == (1, {"USD": "0.40"}, 0)
    program, *arguments = shlex.split(command.replace("\\\n", ""))
    options = options_of(arguments)
    assert (program, options.conn_id, options.username) == ("vace-reconcile", "vace_default", "reporter")


def test_installed_packages_are_in_the_project_file() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    installed = [
        wanted
        for _, kind, text in BLOCKS
        if kind == "bash"
        for wanted in re.findall(r"'([a-z-]+)(?:\[\w+\])?(?:>=[\d.]+)?'", text)
    ]
    assert {"apache-airflow", "airflow-provider-vace", "apache-airflow-providers-amazon"} == set(installed)
    assert all(name in project for name in installed)


@pytest.mark.standalone
@pytest.mark.skipif("VACE_STANDALONE" not in os.environ, reason="VACE_STANDALONE is not set: takes a minute")
def test_the_commands_of_the_first_page_make_a_video(tmp_path: Path) -> None:
    install, server, migrate, dag, run, show = blocks("first-video", "bash")
    assert "pip install" in install
    assert "airflow standalone" in show
    port = str(free_port())
    clips = tmp_path / "clips"
    typed = f"{server}\nsleep 5\n{migrate}\n{dag}\n{run}\nkill %1"
    typed = typed.replace("8642", port).replace("/tmp/clips", str(clips))  # noqa: S108 - as on the page
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    out = bash(typed, plain | {"AIRFLOW_HOME": str(tmp_path / "airflow"), "NO_PROXY": "127.0.0.1"})
    assert "Connection success!" in out
    assert missing_line(out, blocks("first-video", "text")[0].replace("/tmp/clips", str(clips))) is None  # noqa: S108
    (video,) = clips.rglob("*.mp4")
    assert str(video) in out


def test_links_between_the_pages_have_targets() -> None:
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]
    known = {path: path.read_text() for path in paths}
    for path, whole in known.items():
        text = BLOCK.sub("", whole)
        for target in re.findall(r"\]\((?!https?:|\.\./\.\./actions/)([^)]+)\)", text):
            name, _, anchor = target.partition("#")
            found = (path.parent / name).resolve() if name else path
            assert found.exists(), f"{path.name}: {target}"
            if anchor and found.stem not in SHOWN:
                titles = re.findall(r"^#+ (.+)$", known[found], re.MULTILINE)
                assert anchor in [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles], target


def test_every_page_is_in_the_navigation_and_on_the_first_page() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    listed = re.findall(r"'([\w/-]+\.md)'", str(site["nav"]))
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").glob("**/*.md")]
    assert sorted(listed) == sorted(pages)
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", PAGES["index"]))
    assert linked == set(pages) - {"index.md"}
