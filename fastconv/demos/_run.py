"""What every demo says about a network, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from typing import Any, NamedTuple

import numpy as np

import fastconv
from fastconv import nn
from fastconv.nn.summary import Summary


class Ready(NamedTuple):
    """A network prepared for inputs of one shape, and what it does there."""

    run: Callable[[np.ndarray], np.ndarray]
    multiply_adds: int


def prepared(name: str, net: nn.Module, shape: tuple[int, ...]) -> Ready:
    """A network made ready for (N, C, H, W). Prints how large it is, and what preparing takes."""
    counted = Summary(net, shape)
    parameters = f"{counted.parameters:,}".replace(",", " ")
    size, work = "×".join(map(str, shape)), _giga(counted.multiply_adds)
    print(f"{name} on {size}: {parameters} parameters, {work} multiply-adds")
    start = time.perf_counter()
    ready = net.prepare(shape)
    took = _duration(time.perf_counter() - start)
    weights, buffers = (nbytes / 1e6 for nbytes in (ready.memory.weights, ready.memory.buffers))
    print(f"  prepared in {took}: weights {weights:.1f} MB, buffers {buffers:.1f} MB")
    return Ready(ready, counted.multiply_adds)


def _giga(count: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f}"


def timed(what: str, multiply_adds: int | None, work: Callable[[], Any]) -> Any:
    """What `work` gives; prints how long it took, and how much it did in a second (None: not counted).

    What takes less than half a second is done again: the first time memory is new to the process.
    """
    times: list[float] = []
    while not times or sum(times) < 0.5:
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    rate = ""
    if multiply_adds is not None:
        rate = f", {_giga(multiply_adds / min(times))} multiply-adds a second"
    runs = f", the best of {len(times)}" if len(times) > 1 else ""
    threads = fastconv.get_num_threads()
    print(f"  {what}: {_duration(min(times))}{runs}{rate}, threads: {threads}")
    return result


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def progress(items: Sized, what: str) -> Any:
    """The items, with a progress bar where there are several and tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, what, leave=False, disable=None if len(items) > 1 else True)
