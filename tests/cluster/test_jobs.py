"""Submissions on disk, waiting with a queue that is a script, environments, and the verbs' options given again."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines import artifacts
from pipelines.cluster import jobs, slurm
from pipelines.errors import UsageError, VadError
from pipelines.records import Failure
from pipelines.store.features import FeatureStore
from tests.extraction.fakes import facts, vectors
from vadcli.app import app
from vadcli.cluster import NAMES, argv_of
from vadcli.commands.run import _parsed

IDS = ("a", "b", "c", "d")


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    recipe = {"encoder": "fake", "crops": ["center"]}
    return FeatureStore.create(tmp_path / "store", artifacts.make("features", "f" * 64, recipe))


@pytest.fixture
def folder(tmp_path: Path, store: FeatureStore) -> Path:
    """Two tasks, of a, b and of c, d, submitted as job 7."""
    plan = jobs.Plan(
        name="extract-fake",
        dataset="fake",
        tasks=(jobs.Task(("extract", "fake"), ("a", "b"), 2.0), jobs.Task(("extract", "fake"), ("c", "d"), 2.0)),
        outputs=(jobs.Output("fake", "features", "f" * 64, str(store.folder)),),
        lengths={"a": 10, "b": 10, "c": 10, "d": 30},
    )
    made = jobs.write(tmp_path / "runs", plan)
    jobs.submitted(made, ["7", "8"])
    return made


def test_a_plan_comes_back_and_names_its_lists_of_videos(folder: Path) -> None:
    plan = jobs.read(folder)
    assert plan.tasks[1].argv[:3] == ("extract", "fake", "--videos") and plan.tasks[1].videos == ("c", "d")
    assert Path(plan.tasks[1].argv[3]).read_text() == "c\nd\n"
    assert plan.lengths["d"] == 30 and jobs.ids_of(folder) == ("7", "8")


def test_states_come_from_the_store_first(folder: Path, store: FeatureStore) -> None:
    for video in "abc":
        store.write(video, vectors(), facts())
    (folder / "logs" / "7_1_0_log.err").write_text("killed")
    over = jobs.status(folder, {})
    assert (over.done, over.missing) == (3, ("d",)) and over.live is False
    assert [task.state for task in over.tasks] == ["done", "lost"]
    assert over.lost[0].log == folder / "logs" / "7_1_0_log.err"
    running = jobs.status(folder, {1: "RUNNING"})
    assert [task.state for task in running.tasks] == ["done", "running"] and running.lost == () and running.live
    assert [task.state for task in jobs.status(folder, None).tasks] == ["done", "unknown"]


def test_pace_is_by_frames_and_the_rest_is_what_lacks(folder: Path, store: FeatureStore) -> None:
    for video in "abc":
        store.write(video, vectors(), facts())
    state = jobs.status(folder, {1: "RUNNING"})
    assert state.rate is not None and state.eta_s is not None
    assert state.eta_s == pytest.approx(30 / (30 / (3 / state.rate)))  # 30 frames left, 30 done by 3 videos


def test_failures_before_the_plan_do_not_count_and_finished_ones_neither(folder: Path, store: FeatureStore) -> None:
    store.record_failure(Failure("a", "old", "2020-01-01T00:00:00Z", None))
    for video in ("c", "d"):
        store.record_failure(Failure(video, "broken", artifacts.utc_now(), None))
    store.write("d", vectors(), facts())
    state = jobs.status(folder, {})
    assert state.failed == {"c": "broken"} and state.missing == ("a", "b")


def test_videos_to_be_written_anew_count_once_they_are_newer(tmp_path: Path, store: FeatureStore) -> None:
    store.write("a", vectors(), facts())
    os.utime(store.path("a"), (1, 1))
    plan = jobs.Plan(
        "x", "fake", (jobs.Task(("extract",), ("a",)),), (jobs.Output("fake", "features", "f", str(store.folder)),), again=("a",)
    )  # fmt: skip
    made = jobs.write(tmp_path / "runs", plan)
    assert jobs.status(made, {}).missing == ("a",)
    store.replace("a", vectors(seed=1), facts())
    assert jobs.status(made, {}).missing == ()


def test_videos_that_the_queue_still_has_are_known(folder: Path) -> None:
    runs = folder.parent.parent
    assert jobs.in_queue(runs, ["f" * 64], lambda id: {1: "PENDING"}) == {"c": "7", "d": "7"}
    assert jobs.in_queue(runs, ["e" * 64], lambda id: {1: "PENDING"}) == {}
    assert jobs.in_queue(runs, ["f" * 64], lambda id: None) == {}


def test_jobs_are_found_by_folder_name_and_id(folder: Path) -> None:
    runs = folder.parent.parent
    assert {jobs.find(runs, text) for text in (str(folder), folder.name, "7", "8")} == {folder}
    assert jobs.find(runs, "9") is None and jobs.find(runs, "fake") is None


# ---- the queue, from a script ------------------------------------------------------------------------------------


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A squeue that answers with the lines of one file after the other, the last one for ever; `!` lines are errors."""
    answers, program = tmp_path / "answers", tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    answers.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        f"files = sorted(pathlib.Path({str(answers)!r}).iterdir())\n"
        "text = files[0].read_text()\n"
        "len(files) > 1 and files[0].unlink()\n"
        "if text.startswith('!'):\n    sys.exit(text[1:])\n"
        "print(text, end='')\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return answers


def say(squeue: Path, *answers: str) -> None:
    for old in squeue.iterdir():
        old.unlink()
    for index, text in enumerate(answers):
        (squeue / f"{index:03d}").write_text(text)


FAST = (0.01, 0.02)


def test_waiting_ends_when_jobs_are_gone_however_they_ended(squeue: Path) -> None:
    say(squeue, "0|RUNNING|None\n1|PENDING|Resources\n", "1|COMPLETING|None\n", "", "0|PENDING|BeginTime\n", "", "")
    seen: list[int] = []
    slurm.wait(["7"], poll_s=FAST, each=lambda: seen.append(1))
    assert len(seen) == 6  # the one empty answer between a task's end and its requeue is not believed


def test_a_job_that_slurm_has_forgotten_is_gone(squeue: Path) -> None:
    say(squeue, "!slurm_load_jobs error: Invalid job id specified")
    slurm.wait(["7"], poll_s=FAST)


def test_a_controller_that_is_away_for_a_moment_is_waited_for(squeue: Path) -> None:
    say(squeue, "!Unable to contact slurm controller", "!Unable to contact slurm controller", "0|RUNNING|None\n", "")
    slurm.wait(["7"], poll_s=FAST)
    say(squeue, "!Unable to contact slurm controller")
    with pytest.raises(VadError, match="squeue does not answer"):
        slurm.wait(["7"], poll_s=FAST, patience=3)


@pytest.mark.parametrize("reason", ["PartitionTimeLimit", "DependencyNeverSatisfied", "launch failed requeued held"])
def test_a_job_that_can_never_start_does_not_hang_the_wait(squeue: Path, reason: str) -> None:
    say(squeue, f"0|PENDING|{reason}\n1|PENDING|Dependency\n")
    with pytest.raises(VadError, match=f"cannot start: {reason}") as caught:
        slurm.wait(["7", "8"], poll_s=FAST)
    assert "scancel 7 8" in caught.value.hint


def test_a_stuck_task_beside_a_running_one_is_no_reason_to_leave(squeue: Path) -> None:
    say(squeue, "0|RUNNING|None\n1|PENDING|PartitionTimeLimit\n", "0|RUNNING|None\n", "")
    slurm.wait(["7"], poll_s=FAST)


@pytest.mark.parametrize(
    ("state", "requeued"), [("RUNNING", True), ("COMPLETING", False), ("CANCELLED", False), ("", False)]
)
def test_only_a_running_job_is_requeued(
    squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, requeued: bool
) -> None:
    say(squeue, state)
    program = tmp_path / "bin" / "scontrol"
    program.write_text(f"#!/bin/sh\necho $* >> {tmp_path}/asked\n")
    program.chmod(0o755)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    slurm.requeue_if_running()
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 7_3\n" if requeued else "")


def test_variables_of_an_enclosing_allocation_are_taken_away_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SRUN_DEBUG", "SLURM_CONF", "OTHER"):
        monkeypatch.setenv(key, "x")
    with slurm.clean_environment():
        assert [key for key in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SRUN_DEBUG", "SLURM_CONF", "OTHER") if key in os.environ] == [
            "SLURM_CONF", "OTHER"
        ]  # fmt: skip
    assert os.environ["SLURM_JOB_ID"] == os.environ["SBATCH_PARTITION"] == "x"


def test_the_warning_leaves_minutes_where_the_limit_does() -> None:
    assert [slurm.Resources(timeout_min=n).warning_s for n in (1, 10, 60, 240)] == [30, 60, 360, 600]


def test_a_task_with_recorded_failures_is_a_success_and_a_crash_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code, expected in ((0, "0\n"), (3, "3\n")):
        monkeypatch.setattr(slurm, "COMMAND", (sys.executable, "-c", f"import sys; sys.exit({code})"))
        assert slurm.VadTask(str(folder), 1)() == code
        assert (folder / "done" / "1").read_text() == expected
    monkeypatch.setattr(slurm, "COMMAND", (sys.executable, "-c", "import sys; sys.exit(4)"))
    with pytest.raises(VadError, match="vad left with 4"):
        slurm.VadTask(str(folder), 0)()
    assert not (folder / "done" / "0").exists()


def test_the_warning_ends_the_command_at_once_though_it_comes_inside_the_waiting(folder: Path) -> None:
    """The handler runs in the thread that watches the command; it must not wait for what that thread holds."""
    code = (
        "import signal, sys, time\n"
        "from pipelines.cluster import slurm\n"
        "slurm.COMMAND = (sys.executable, '-c', 'import time; time.sleep(100)')\n"
        "task = slurm.VadTask(sys.argv[1], 1)\n"
        "def warned(number, frame):\n"
        "    task.checkpoint(); print('requeue'); sys.exit(7)\n"
        "signal.signal(signal.SIGUSR2, warned)\n"
        "task()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    time.sleep(3)
    process.send_signal(signal.SIGUSR2)
    out, _ = process.communicate(timeout=30)  # STOP_S is a minute
    assert (process.returncode, out) == (7, "requeue\n")


# ---- a command given again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["extract", "mine", "--encoder", "a+b", "--set", "x=1", "--set", "y=2", "--lazy"],
        ["train", "mine", "--method", "mil-rank", "--seeds", "3", "--set", "k=1,2"],
        ["eval", "--metric", "auc", "--no-plots", "--smooth", "gaussian:3"],
    ],
)
def test_a_command_is_given_again_as_it_was_typed_without_the_batch_options(words: list[str]) -> None:
    root = typer.main.get_command(app)
    command = root.commands[words[0]].real()
    ctx: Any = command.make_context(f"vad {words[0]}", [*words[1:], "--executor", "slurm", "--timeout", "3h", "--wait"])
    again = argv_of(ctx)
    assert again[0] == words[0] and sorted(again) == sorted(words)
    assert set(NAMES) <= set(ctx.params)
    assert _parsed(root, argv_of(ctx))[0] == words[0]


def test_a_full_options_round_trip() -> None:
    from vadcli.cluster import ClusterOptions

    options = ClusterOptions(
        partition="gpu", timeout="3h", setup=["module load x", "a b"], sbatch=["nice=3"], after=["5"]
    )
    assert options.words() == [
        "--partition=gpu", "--timeout=3h", "--setup=module load x", "--setup=a b", "--sbatch=nice=3", "--after=5"
    ]  # fmt: skip
    found = options.resources()
    assert (found.timeout_min, found.setup, dict(found.sbatch), found.after) == (
        180, ("module load x", "a b"), {"nice": "3"}, ("5",)
    )  # fmt: skip
    with pytest.raises(UsageError, match="not key=value"):
        ClusterOptions(sbatch=["=3"]).resources()
    assert options.with_step({"cpus-per-task": "4", "timeout": "1h"}).resources().cpus_per_task == 4
    assert json.dumps(options.words())
