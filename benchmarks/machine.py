"""What this machine can do, measured: the limits that the report's per cent refer to."""

import datetime
import functools
import os
import platform
import threading
import time
from pathlib import Path

import numpy as np

import fastconv
from benchmarks.problems import DTYPES
from fastconv import _core

TRIAL = 0.005
TRIALS = 5
SLEEP = 0.02  # more than OpenMP waits before it sleeps
CALL_HIDES_BELOW = 1 << 15


def limit(problem, dtype: str, threads: int) -> tuple[str, float]:
    """The roofline: which of the machine's limits is the longer, and its seconds."""
    return max(
        ("FMA", problem.flops / fma_peak(dtype, threads)),
        ("copy", copy_seconds(problem.nbytes(dtype), threads)),
        key=lambda limit: limit[1],
    )


def facts() -> dict:
    """What a result must say about where and when it was measured."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text("utf-8").splitlines() if cpus.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": names[0] if names else platform.processor(),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fastconv": fastconv.__version__,
        "isa": _core.isa_rows()[_core.in_force()[0]],
    }


@functools.cache
def fma_peak(dtype: str, threads: int) -> float:
    """Fused multiply-adds from registers, in FLOP/s: the best of some trials.

    Threads that wake up may be given one CPU and stay there for a trial; the next wakes them anew.
    """
    best = 0.0
    for _ in range(TRIALS):
        best = max(best, _core.fma_peak(np.dtype(DTYPES[dtype]).char, threads))
        time.sleep(SLEEP)
    return best * 1e9


@functools.cache
def copy_seconds(nbytes: int, threads: int) -> float:
    """Time to move nbytes, half of them read and half written, by np.copyto.

    The buffers are reused, so they sit in the cache a problem of this size sits in. Below 32 KiB
    a thread the call would be measured, so the rate at 32 KiB stands for smaller ones.
    """
    part = max(nbytes // (2 * threads), CALL_HIDES_BELOW)
    return min(_trial(part, threads) for _ in range(TRIALS)) * nbytes / (2 * part * threads)


def _trial(part: int, threads: int) -> float:
    """Seconds for every thread to copy `part` bytes once, measured over many times."""
    buffers = [(np.ones(part, np.uint8), np.zeros(part, np.uint8)) for _ in range(threads)]
    repeats = max(1, round(TRIAL / _seconds(1, *buffers[0])))
    start = threading.Barrier(threads)
    spent: list[float] = []

    def copy(source: np.ndarray, destination: np.ndarray) -> None:
        start.wait()
        spent.append(_seconds(repeats, source, destination))

    team = [threading.Thread(target=copy, args=pair) for pair in buffers]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    return max(spent) / repeats


def _seconds(repeats: int, source: np.ndarray, destination: np.ndarray) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        np.copyto(destination, source)
    return time.perf_counter() - start
