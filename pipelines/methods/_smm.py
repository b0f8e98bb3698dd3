"""The State Machine Module of Local Patterns (Jiang and Mao), eq. 2 to 6, with the reference's completions.

HiPPO-LegT over a sliding window (Gu et al., NeurIPS 2020; equal to the LMU up to a diagonal), discretised by zero-order
hold in float64: under any other rule the window never forgets or explodes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from pipelines.errors import UsageError
from pipelines.recipe import Config

LARGEST = 1e3  # of a basis value: Legendre polynomials explode outside [-1, 1]
LITERAL_ORDERS = 8
INIT_STD = 0.02  # [paper] N(0, 0.02), taken as standard deviation


class SmmConfig(Config):
    """The State Machine Module."""

    input_mode: Literal["channel", "component", "sum"] = Field(
        "channel", description="a state a channel; u_o drives c_o; or the paper's eq. 3, where the input is one scalar"
    )
    basis: Literal["horizon", "readout", "literal"] = Field(
        "horizon", description="basis on [1, L + dt]; ones; or the paper's polynomials beyond [-1, 1] (O <= 8 only)"
    )
    channels: int = Field(64, ge=1, description="M, of `channel`")
    orders: int = Field(8, ge=1, description="O, Legendre components of a state; the paper's 64 for the other modes")
    window: int = Field(5, ge=1, description="L, frames that the state remembers")
    dt: int = Field(1, ge=1, description="steps ahead that are predicted")


def legt(orders: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """HiPPO-LegT: A (O, O) and B (O,) of dc/dt = (A c + B u) / theta."""
    i, j = np.mgrid[:orders, :orders].astype(np.float64)
    a = -np.sqrt((2 * i + 1) * (2 * j + 1)) * np.where(i >= j, 1.0, (-1.0) ** (i - j))
    return a, np.sqrt(2 * np.arange(orders) + 1.0)


def zero_order_hold(orders: int, window: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One step of the window: Ad (O, O) and Bd (O,), the blocks of expm([[A/L, B/L], [0, 0]]), in float64."""
    from scipy.linalg import expm

    a, b = legt(orders)
    joint = np.zeros((orders + 1, orders + 1))
    joint[:orders, :orders], joint[:orders, orders] = a / window, b / window
    step = expm(joint)
    return step[:orders, :orders], step[:orders, orders]


def decode_lags(orders: int, window: int) -> NDArray[np.float64]:
    """(L, O): row k decodes the input of k steps ago from the state, at the middle (k + .5) / L of its step."""
    from numpy.polynomial import legendre

    r = (np.arange(window) + 0.5) / window
    return np.stack([np.sqrt(2 * n + 1) * legendre.Legendre.basis(n)(1 - 2 * r) for n in range(orders)], axis=1)


def shifted_basis(kind: str, orders: int, window: int, dt: int) -> NDArray[np.float64]:
    """g_o at step L + dt, (O,).

    Raises:
        UsageError: a literal basis of more than 8 orders, or with values beyond 1e3.
    """
    from numpy.polynomial import legendre

    if kind == "readout":
        return np.ones(orders)
    at = window + dt
    x = 2 * (at - 0.5) / (window + dt if kind == "horizon" else window) - 1
    values = np.array([legendre.Legendre.basis(n)(x) for n in range(orders)])
    if kind == "literal" and (orders > LITERAL_ORDERS or np.abs(values).max() > LARGEST):
        raise UsageError(
            f"smm.basis=literal with smm.orders={orders}: its values reach {np.abs(values).max():.3g} at x={x:.2f}, "
            f"beyond [-1, 1], where Legendre polynomials explode",
            hint=f"smm.basis=horizon, or at most {LITERAL_ORDERS} orders",
        )
    return values


class StateMachine(nn.Module):
    """v(t-L+1) .. v(t) -> v(t+dt). The state starts at zero for every tube and runs exactly L steps.

    As written in the paper it is linear in v. `a`, `b`, `g` are fixed buffers; the encoder (OFE), `c` and the decoder (OFD)
    learn, all drawn from N(0, 0.02).
    """

    a: Tensor
    b: Tensor
    g: Tensor

    def __init__(self, width: int, config: SmmConfig, *, out: int | None = None) -> None:
        super().__init__()
        self.config = config
        o, per_channel = config.orders, config.input_mode == "channel"
        a, b = zero_order_hold(o, config.window)
        g = shifted_basis(config.basis, o, config.window, config.dt)
        for name, value in (("a", a), ("b", b), ("g", g)):
            self.register_buffer(name, torch.from_numpy(value.astype(np.float32)))
        inner = config.channels if per_channel else o
        self.encode = nn.Linear(width, inner)
        self.decode = nn.Linear(inner, width if out is None else out)
        self.c = nn.Parameter(torch.empty((config.channels, o, o) if per_channel else (o, o)))
        for weight in (self.encode.weight, self.decode.weight, self.c):
            nn.init.normal_(weight, std=INIT_STD)
        for bias in (self.encode.bias, self.decode.bias):
            nn.init.zeros_(bias)

    def forward(self, v: Tensor) -> Tensor:
        """v (B, L, N) -> (B, N')."""
        u = self.encode(v)  # (B, L, M) or (B, L, O)
        match self.config.input_mode:
            case "channel":
                state = self._run(u[..., None] * self.b)  # (B, M, O)
                x = torch.einsum("moj,bmj->bmo", self.c, state)
                return self._out((x * self.g).sum(2))
            case "component":
                state = self._run(u * self.b)  # (B, O)
            case _:
                state = self._run(u.sum(2, keepdim=True) * self.b)
        return self._out((state @ self.c.T) * self.g)

    def _run(self, driven: Tensor) -> Tensor:
        """driven (B, L, ..., O): what each step adds -> the state after the last one."""
        state = torch.zeros_like(driven[:, 0])
        for step in range(driven.shape[1]):
            state = state @ self.a.T + driven[:, step]
        return state

    def _out(self, x: Tensor) -> Tensor:
        decoded: Tensor = self.decode(x)
        return decoded
