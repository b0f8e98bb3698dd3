"""The loop: schedules by hand, clipping, phases, a NaN that names its step, term and videos, and the log."""

from __future__ import annotations

import dataclasses
import math
import os
import signal

import pytest
import torch
from torch import nn

from pipelines.errors import Stopped, UsageError, VadError
from pipelines.methods._base import DataConfig, Method, OptimConfig, Phase
from pipelines.records import Bag
from pipelines.training.loop import Session, make_optimizer, schedule, stop_flag, train
from pipelines.training.trackers import CsvLog, read_log


class Line(Method):
    """One weight per phase; losses are handed in."""

    def __init__(self, *losses, steps=5, **optim):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(1)) for _ in losses])
        self.given, self.steps, self.optim = losses, steps, OptimConfig(**({"name": "sgd", "lr": 0.1} | optim))

    def phases(self):
        return [
            Phase(
                f"p{i}",
                [{"params": [w]}],
                DataConfig(),
                lambda bag, i=i: self.given[i](self.weights[i], bag),
                self.steps,
                self.optim,
            )
            for i, w in enumerate(self.weights)
        ]

    def score(self, bag):
        raise AssertionError


class Source:
    """Bags of one clip whose value is the number of the batch."""

    def __init__(self):
        self.at = 0

    def next(self, *, step, steps):
        self.at += 1
        x = torch.full((2, 1, 1, 1), float(self.at))
        y = torch.tensor([0.0, 1.0])
        mask = torch.ones(2, 1, dtype=torch.bool)
        return Bag(
            x, mask, mask.sum(1), y, torch.eye(2), ("calm", "wild"), ("any",), {}, {"step": step, "steps": steps}
        )

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def go(method, **session):
    phases = method.phases()
    return train(method, phases, [Source() for _ in phases], Session(**session))


def test_sgd_on_a_square_by_hand():
    method = Line(lambda w, bag: {"square": (w**2).sum()}, steps=3)
    assert go(method) == 3
    assert method.weights[0].item() == pytest.approx(0.8**3)


def test_terms_are_summed():
    method = Line(lambda w, bag: {"a": (w**2).sum(), "b": 3 * w.sum()}, steps=1)
    go(method)
    assert method.weights[0].item() == pytest.approx(1 - 0.1 * (2 + 3))


def test_gradients_are_cut_to_the_norm():
    method = Line(lambda w, bag: {"a": 50 * w.sum()}, steps=1, clip_norm=2.0)
    go(method)
    assert method.weights[0].item() == pytest.approx(1 - 0.1 * 2.0, abs=1e-5)


def test_phases_run_in_order_and_touch_their_own_parameters():
    seen = []

    def first(w, bag):
        seen.append("first")
        return {"a": w.sum()}

    def second(w, bag):
        seen.append("second")
        return {"b": 2 * w.sum()}

    method = Line(first, second, steps=2)
    assert go(method) == 4
    assert seen == ["first", "first", "second", "second"]
    assert [w.item() for w in method.weights] == pytest.approx([0.8, 0.6])


def test_a_group_keeps_its_own_learning_rate_under_the_schedule():
    fast, slow = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    config = OptimConfig(name="sgd", lr=0.1, schedule="step", milestones=(1,), gamma=0.5)
    groups = [{"params": [fast], "lr": 1.0}, {"params": [slow]}]
    method = Line(lambda w, bag: {})
    phase = Phase("p", groups, DataConfig(), lambda bag: {"a": (fast + slow).sum()}, 2, config)
    train(method, [phase], [Source()], Session())
    assert fast.item() == pytest.approx(1 - 1.0 - 0.5)
    assert slow.item() == pytest.approx(1 - 0.1 - 0.05)


def test_after_step_runs_after_each_step():
    method = Line(lambda w, bag: {"a": w.sum()}, steps=4)
    phase = method.phases()[0]
    w = method.weights[0]
    clamped = dataclasses.replace(phase, after_step=lambda: w.data.clamp_(min=0.85))
    train(method, [clamped], [Source()], Session())
    assert w.item() == pytest.approx(0.85)


def test_schedules_by_hand():
    cosine = schedule(OptimConfig(schedule="cosine"), 10)
    assert [cosine(0), cosine(5), cosine(10)] == pytest.approx([1, 0.5, 0])
    warm = schedule(OptimConfig(schedule="cosine", warmup=4), 14)
    assert [warm(s) for s in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert warm(4) == 1 and warm(9) == pytest.approx(0.5)
    step = schedule(OptimConfig(schedule="step", milestones=(2, 4), gamma=0.1), 6)
    assert [step(s) for s in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_onecycle_is_torchs():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=50)
    ours = schedule(OptimConfig(schedule="onecycle"), 50)
    for step in range(50):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        if step < 49:
            theirs.step()


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "sgd"])
def test_every_optimiser_is_built_with_its_values(name):
    phase = Phase(
        "p",
        [{"params": [nn.Parameter(torch.ones(2))]}],
        DataConfig(),
        dict,
        1,
        OptimConfig(name=name, lr=0.3, weight_decay=0.2),
    )
    group = make_optimizer(phase).param_groups[0]
    assert (group["lr"], group["weight_decay"], group["initial_lr"]) == (0.3, 0.2, 0.3)


def test_a_phase_without_parameters_is_refused():
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    with pytest.raises(UsageError, match="'empty' has no trainable"):
        make_optimizer(Phase("empty", [{"params": [frozen]}], DataConfig(), dict, 1, OptimConfig()))


def test_a_nan_stops_with_the_step_the_term_and_the_videos():
    method = Line(lambda w, bag: {"fine": 0 * w.sum(), "odd": (w * (math.nan if bag.extras["step"] == 2 else 0)).sum()})
    with pytest.raises(VadError, match=r"step 3 of phase 'p0'.*loss is nan.*term odd.*calm, wild"):
        go(method)


def test_an_infinite_gradient_stops_though_the_loss_is_finite():
    method = Line(lambda w, bag: {"root": ((w - 1).abs() + 0.0).sqrt().sum()})
    with pytest.raises(VadError, match=r"step 1.*the gradient is"):
        go(method)


def test_the_log_has_a_row_for_the_first_the_tenth_and_the_last_step(tmp_path):
    method = Line(lambda w, bag: {"a": (w**2).sum()}, steps=25)
    log = CsvLog(tmp_path / "train.csv")
    go(method, trackers=[log], check=lambda done, m: ({"val": done / 100}, False), check_every=7)
    rows = read_log(tmp_path / "train.csv")
    assert [int(r["step"]) for r in rows] == [1, 7, 11, 14, 21, 25]
    assert rows[0]["loss"] == rows[0]["a"] == "1" and rows[0]["val"] == "" and rows[1]["val"] == "0.07"
    assert all(float(r["data_fraction"]) >= 0 for r in rows)


def test_a_check_that_says_enough_ends_the_training_and_saves():
    saved = []
    method = Line(lambda w, bag: {"a": w.sum()}, steps=50)
    done = go(method, check=lambda d, m: ({}, d >= 20), check_every=10, save=lambda *a: saved.append(a[1]))
    assert done == 20 and saved == [20]


def test_states_are_saved_every_so_often_and_at_the_end():
    saved = []
    go(Line(lambda w, bag: {"a": w.sum()}, steps=7), save=lambda p, s, o, b: saved.append((p, s)), save_every=3)
    assert saved == [(0, 3), (0, 6), (0, 7)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_finish_saves_and_raises_stopped(number, code):
    saved = []

    def losses(w, bag):
        if bag.extras["step"] == 2:
            os.kill(os.getpid(), number)
        return {"a": w.sum()}

    before = signal.getsignal(number)
    with stop_flag() as flag, pytest.raises(Stopped) as caught:
        go(Line(losses, steps=50), stop=flag, save=lambda p, s, o, b: saved.append(s), save_every=100)
    assert saved == [3] and caught.value.exit_code == code
    assert signal.getsignal(number) is before


def test_csv_rows_past_the_resumed_step_are_dropped(tmp_path):
    log = CsvLog(tmp_path / "train.csv")
    for step in (1, 11, 21):
        log.log(step, {"loss": float(step)})
    resumed = CsvLog(tmp_path / "train.csv", upto=15)
    resumed.log(21, {"loss": 0.5, "val": 0.25})
    rows = read_log(tmp_path / "train.csv")
    assert [(r["step"], r["loss"], r["val"]) for r in rows] == [("1", "1", ""), ("11", "11", ""), ("21", "0.5", "0.25")]


def test_a_cut_last_line_of_the_log_is_left_out(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("step,loss,a\n1,2,3\n11,4")
    assert [r["step"] for r in read_log(path)] == ["1"]
