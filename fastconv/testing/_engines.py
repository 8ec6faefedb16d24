"""One convolution on one engine: an ISA, an algorithm and a number of threads."""

from __future__ import annotations

from typing import Any

from fastconv import _core


def on_engine(
    judged: tuple, isa: str, algorithm: str, threads: int, prepared: dict[Any, Any] | None
) -> bool:
    """Computes what `_arguments.convolution` has judged, into its result; False: the algorithm cannot.

    prepared: a dict for packed weights, None for weights as they are.
    """
    problem, x, w, b, y, _, residual = judged
    row = _core.isa_rows().index(isa)
    token = _core.options.set((row, algorithm, "highest", threads))
    try:
        _core.conv(problem, x, w, b, y, prepared, residual)
    except ValueError as refusal:
        if "cannot do this:" not in str(refusal):
            raise
        return False
    finally:
        _core.options.reset(token)
    return True
