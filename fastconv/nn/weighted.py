"""What layers with a weight and a bias share: they enter the engine with weights packed once."""

from __future__ import annotations

import numpy as np

from fastconv import _core
from fastconv.nn.module import Module

_NOTHING = (None, None)


class Weighted(Module):
    """A layer that is one call of the engine on its parameters `weight` and `bias`."""

    _op: str

    def _judged(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, options: tuple) -> tuple:
        """What `_arguments` says of the call."""
        raise NotImplementedError

    def _enter(self, x: np.ndarray, options: tuple) -> np.ndarray:
        state = self.__dict__  # attributes of modules take long to find
        weight, bias = state["_parameters"]["weight"], state["_parameters"]["bias"]
        owner, prepared = state.get("_prepared", _NOTHING)
        if owner is not weight:
            prepared = self._packed(weight)
        result = _core.again(self._op, x, weight, bias, options, prepared)
        if result is not None:
            return result
        x = np.asarray(x) if not isinstance(x, np.ndarray) else x
        if x.dtype != weight.dtype and x.dtype in (np.float32, np.float64):
            # A layer computes in the type of its parameters.
            return self._enter(x.astype(weight.dtype), options)
        problem, x_, w, b, y, result = self._judged(x, weight, bias, options)[:6]
        if y.size:
            plan = _core.conv(problem, x_, w, b, y, prepared)
            taken = (x_, w, b)
            _core.remember(plan, result, taken, self._op, x, weight, bias, options, prepared)
        return result
