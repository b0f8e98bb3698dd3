"""Reading published checkpoints without executing anything in them, and giving a network exactly its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from pipelines.errors import VerificationError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

COUNTER = "num_batches_tracked"  # of batch normalisation: unused in evaluation, absent from old checkpoints
CLOSING = ("gamma", "bn3.weight", "nl.bn.weight")  # scales at the end of a residual branch
WRAPPERS = ("model", "module", "state_dict")  # one level that training programs put around the tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, safetensors or (weights only) torch; one wrapping level is taken off.

    Raises:
        VerificationError: the file cannot be read as either.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        return _unwrapped(dict(torch.load(path, map_location="cpu", weights_only=True)))
    except (SafetensorError, UnpicklingError, RuntimeError, ValueError, TypeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise VerificationError(f"{path} is not a readable checkpoint: {reason}") from error


def _unwrapped(found: dict[str, Any]) -> dict[str, Tensor]:
    inner: Mapping[str, Any] = next((found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping)), found)
    return {key: value for key, value in inner.items() if hasattr(value, "shape")}


def load_strictly(
    model: Module, tensors: Mapping[str, Tensor], path: Path, *, unused: tuple[str, ...] | None = None
) -> None:
    """Give a network exactly the tensors it has names for.

    Args:
        unused: prefixes of the keys that may be left over (other towers, heads); None allows any, () none.

    Raises:
        VerificationError: a tensor is missing, unknown or of another shape.
    """
    wanted = _shapes(model.state_dict())
    found = _shapes(tensors)
    spare = {key for key in found.keys() - wanted.keys() if unused is None or key.startswith(unused)}
    wrong = [
        f"{key} {found.get(key, 'missing')}, expected {wanted.get(key, 'no such key')}"
        for key in [*wanted, *found]
        if key not in spare and found.get(key) != wanted.get(key)
    ]
    if wrong := list(dict.fromkeys(wrong)):
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise VerificationError(f"{path} does not fit {type(model).__name__}: {'; '.join(wrong[:3])}{more}")
    # assigning serves networks that were built without memory; a network's own precision is set afterwards
    model.load_state_dict({key: tensors[key] for key in wanted}, strict=False, assign=True)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items() if not key.endswith(COUNTER)}


def randomise(model: Module, *, seed: int) -> None:
    """Fill a network with seeded weights that keep activations of order one: for counting, timing and tests.

    Matrices and kernels are normal with variance 2 / fan-in, scales are 1 (0.2 where they close a residual branch, so
    that depth does not blow them up), the rest is 0.
    """
    import torch

    random = torch.Generator().manual_seed(seed)
    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.zero_()
        elif tensor.ndim > 1:
            tensor.normal_(0, math.sqrt(2 / math.prod(tensor.shape[1:])), generator=random)
        else:
            tensor.fill_(0.2 if key.endswith(CLOSING) else float(key.endswith(("weight", "running_var"))))
