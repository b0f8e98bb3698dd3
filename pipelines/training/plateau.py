"""The learning rate falls where a validation loss no longer does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pipelines.methods._base import Method


class Plateau:
    """A factor on the learning rate: `gamma` times lower after `patience` epochs without a lower validation loss.

    Counting begins anew after each fall. Its state is part of a saved training.
    """

    def __init__(self, *, patience: int, gamma: float) -> None:
        self.patience, self.gamma = patience, gamma
        self.factor, self.best, self.waited = 1.0, math.inf, 0

    def update(self, value: float) -> None:
        """Take the validation loss of one epoch."""
        if value < self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.factor, self.waited = self.factor * self.gamma, 0

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"factor": self.factor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.factor, self.best, self.waited = float(state["factor"]), float(state["best"]), int(state["waited"])


def mean_loss(method: Method, loss: Callable[[Any], Tensor], batches: Iterable[Any]) -> float:
    """Mean of a loss over held-out batches, in eval mode and without gradients; batches weigh alike.

    The global generator is as before afterwards: how often is validated changes no training.
    """
    was_training = method.training
    method.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            values = [float(loss(batch)) for batch in batches]
    finally:
        method.train(was_training)
    return sum(values) / len(values) if values else math.nan
