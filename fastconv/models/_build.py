"""What every function of the package does around the network it makes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from fastconv import checkpoints, nn
from fastconv.nn.initialisation import unfilled
from fastconv.nn.module import parameter_dtype

Weights = str | os.PathLike | Mapping | None


def build(network: Callable[..., nn.Module], *args: Any, dtype: Any, weights: Weights) -> nn.Module:
    """`network(*args)` of a type and with weights, in `eval()` mode."""
    dtype = parameter_dtype(dtype)
    with contextlib.nullcontext() if weights is None else unfilled():
        net = network(*args)
    if dtype != parameter_dtype(None):
        net = net.astype(dtype)
    if weights is not None:
        state = weights if isinstance(weights, Mapping) else checkpoints.load(weights)
        net.load_state_dict(state)
    return net.eval()


def one_of(network: str, variant: str, variants: tuple[str, ...]) -> str:
    """`variant`, which must be one of the names."""
    if variant not in variants:
        raise ValueError(f"{network}: variant must be one of {variants}, got {variant!r}")
    return variant
