"""What every demo says about a network, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from typing import Any

import numpy as np

import fastconv
from fastconv import nn
from fastconv.nn.summary import Summary


def introduce(name: str, net: nn.Module, shape: tuple[int, ...]) -> int:
    """Prints a line about a network that is going to run on (N, C, H, W); gives its multiply-adds."""
    counted = Summary(net, shape)
    size = "×".join(map(str, shape))
    parameters = f"{counted.parameters:,}".replace(",", " ")
    work = _giga(counted.multiply_adds)
    print(f"{name} on {size}: {parameters} parameters, {work} multiply-adds")
    return counted.multiply_adds


def _giga(count: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f}"


def timed(what: str, multiply_adds: int, work: Callable[[], np.ndarray]) -> np.ndarray:
    """What `work` gives; prints how long it took, and how much it did in a second."""
    start = time.perf_counter()
    result = work()
    took = time.perf_counter() - start
    rate = f"{_giga(multiply_adds / took)} multiply-adds a second"
    threads = fastconv.get_num_threads()
    print(f"  {what}: {_duration(took)}, {rate}, up to {threads} thread{'s' * (threads > 1)}")
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
