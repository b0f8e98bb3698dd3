"""The State Machine Module: its matrices against scipy and the reference's measured values, its modes by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete

from pipelines.errors import UsageError
from pipelines.methods._smm import SmmConfig, StateMachine, decode_lags, legt, shifted_basis, zero_order_hold

WINDOW = 5


@pytest.mark.parametrize("orders", [1, 8, 64])
def test_zero_order_hold_is_scipys(orders):
    a, b = legt(orders)
    ad, bd = zero_order_hold(orders, WINDOW)
    system = (a / WINDOW, b[:, None] / WINDOW, np.eye(orders), np.zeros((orders, 1)))
    slow_a, slow_b, *_ = cont2discrete(system, 1.0, method="zoh")
    np.testing.assert_allclose(ad, slow_a, atol=1e-12)
    np.testing.assert_allclose(bd, slow_b[:, 0], atol=1e-12)


def impulse(orders: int, steps: int) -> list[float]:
    """Norm of the LMU's state k steps after an impulse: c = diag((-1)^n / sqrt(2n+1)) m."""
    ad, bd = zero_order_hold(orders, WINDOW)
    n = np.arange(orders)
    to_legt = (-1.0) ** n / np.sqrt(2 * n + 1)
    state, norms = bd, []
    for _ in range(steps):
        norms.append(float(np.linalg.norm(state / to_legt)))
        state = ad @ state
    return norms


def test_the_window_is_really_forgotten():
    norms = impulse(64, 21)
    # the reference's table for O=64, L=5: k = 0, 1, 4, 5, 8
    np.testing.assert_allclose([norms[k] for k in (0, 1, 4, 5)], [1.12, 1.50, 1.10, 0.149], rtol=0.01)
    assert norms[5] < 0.2 and norms[8] < 1e-3 and norms[20] < 1e-12
    ad, _ = zero_order_hold(64, WINDOW)
    assert np.abs(np.linalg.eigvals(ad)).max() == pytest.approx(0.101, abs=0.002)


def test_a_bilinear_rule_would_never_forget():
    a, b = legt(64)
    left = np.eye(64) - a / WINDOW / 2
    ad, bd = np.linalg.solve(left, np.eye(64) + a / WINDOW / 2), np.linalg.solve(left, b / WINDOW)
    state = bd
    for _ in range(20):
        state = ad @ state
    n = np.arange(64)
    assert np.linalg.norm(state / ((-1.0) ** n / np.sqrt(2 * n + 1))) == pytest.approx(
        1.42, abs=0.01
    )  # the reference's


def test_the_state_gives_the_window_back_at_the_middle_of_each_step():
    from numpy.polynomial import legendre

    ad, bd = zero_order_hold(64, WINDOW)
    u = np.random.default_rng(0).normal(size=(200, WINDOW))
    state = np.zeros((200, 64))
    for step in range(WINDOW):
        state = state @ ad.T + u[:, step, None] * bd
    newest_first = u[:, ::-1]
    error = np.abs(state @ decode_lags(64, WINDOW).T - newest_first).max(axis=1).mean()
    n = np.arange(64)
    edge = np.stack([np.sqrt(2 * k + 1) * legendre.Legendre.basis(k)(1 - 2 * np.arange(WINDOW) / WINDOW) for k in n], 1)
    worse = np.abs(state @ edge.T - newest_first).max(axis=1).mean()
    assert error < 0.25 and worse > 2 * error


def test_the_bases_by_hand():
    found = shifted_basis("horizon", 8, 5, 1)
    np.testing.assert_allclose(found, [1, 0.833, 0.542, 0.197, -0.119, -0.336, -0.414, -0.353], atol=5e-4)
    assert (shifted_basis("readout", 8, 5, 1) == 1).all()
    assert shifted_basis("literal", 8, 5, 1)[1] == pytest.approx(1.2)


@pytest.mark.parametrize("orders", [9, 64])
def test_a_literal_basis_beyond_eight_orders_is_refused(orders):
    with pytest.raises(UsageError, match="beyond \\[-1, 1\\]"):
        StateMachine(10, SmmConfig(basis="literal", orders=orders))
    StateMachine(10, SmmConfig(basis="literal", orders=8))


def gradient(mode: str) -> torch.Tensor:
    torch.manual_seed(0)
    machine = StateMachine(12, SmmConfig(input_mode=mode, channels=4, orders=6))
    machine(torch.randn(8, WINDOW, 12)).square().sum().backward()
    grad = machine.encode.weight.grad
    assert grad is not None
    return grad / grad.abs().max()


def test_the_literal_sum_gives_every_row_of_the_encoder_the_same_gradient():
    rows = gradient("sum")
    torch.testing.assert_close(rows, rows[:1].expand_as(rows), rtol=1e-4, atol=1e-6)
    assert (gradient("channel")[0] - gradient("channel")[1]).abs().max() > 1e-2
    assert (gradient("component")[0] - gradient("component")[1]).abs().max() > 1e-2


@pytest.mark.parametrize("mode", ["channel", "component", "sum"])
def test_each_mode_is_its_equations_step_by_step(mode):
    torch.manual_seed(1)
    machine = StateMachine(7, SmmConfig(input_mode=mode, channels=3, orders=4)).double()
    v = torch.randn(2, WINDOW, 7).double()
    a, b, g = machine.a, machine.b, machine.g
    found = []
    for row in v:
        u = row @ machine.encode.weight.T + machine.encode.bias
        if mode == "channel":
            values = []
            for m in range(3):
                c = torch.zeros(4).double()
                for step in range(WINDOW):
                    c = a @ c + b * u[step, m]
                values.append(((machine.c[m] @ c) * g).sum())
            inner = torch.stack(values)
        else:
            c = torch.zeros(4).double()
            for step in range(WINDOW):
                c = a @ c + b * (u[step] if mode == "component" else u[step].sum())
            inner = (machine.c @ c) * g
        found.append(inner @ machine.decode.weight.T + machine.decode.bias)
    torch.testing.assert_close(machine(v), torch.stack(found))


def test_the_default_mode_has_exactly_the_papers_number_of_weights_between():
    assert StateMachine(100, SmmConfig()).c.numel() == 64 * 64
    assert StateMachine(100, SmmConfig(input_mode="sum", orders=64)).c.numel() == 64 * 64


def test_learning_beats_persistence_on_what_rotates():
    """Pairs that turn by their own angle: the next step is a linear function of the last ones."""
    torch.manual_seed(0)
    angle = torch.rand(4) * 1.5 + 0.4
    basis = torch.linalg.qr(torch.randn(32, 8)).Q

    def tubes(count: int) -> torch.Tensor:
        phase = torch.rand(count, 1, 4) * 6.283
        turn = phase + angle * torch.arange(6)[None, :, None]
        return torch.cat([turn.cos(), turn.sin()], 2) @ basis.T

    machine = StateMachine(32, SmmConfig(channels=16))
    optimizer = torch.optim.Adam(machine.parameters(), 1e-2)
    for _ in range(400):
        v = tubes(64)
        loss = (machine(v[:, :5]) - v[:, 5]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    v = tubes(500)
    learnt, still = (machine(v[:, :5]) - v[:, 5]).square().mean(), (v[:, 4] - v[:, 5]).square().mean()
    assert learnt < 0.2 * still
