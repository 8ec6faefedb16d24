"""A core for each thread of a worker.

Linux may keep threads that wake up together on one CPU, here for a quarter of a second: two threads
are then as fast as one, for reasons that are nobody's merit.
"""

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

TASKS = Path("/proc/self/task")
SECONDS = 0.005  # of work, so that the kernel has counted it
_allowed = os.sched_getaffinity(0) if TASKS.exists() else set()


def bind_helpers(run: Callable[[], object], threads: int) -> None:
    """Give the threads that help in `run` a core each, all but the first, if there are as many.

    Idle ones share. The caller stays free, as libraries count the CPUs that it may use.
    """
    cores = _one_cpu_of_each_core()
    if threads == 1 or len(cores) < threads:
        return
    before = _worked()
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        run()
    grown = {task: worked - before.get(task, 0) for task, worked in _worked().items()}
    del grown[os.getpid()]
    busiest = sorted(grown, key=grown.__getitem__, reverse=True)
    for task, cpu in zip(busiest, itertools.cycle(cores[1:threads]), strict=False):
        os.sched_setaffinity(task, {cpu})


def move_caller() -> None:
    """To the core that the helpers leave alone."""
    if _allowed:
        os.sched_setaffinity(0, {min(_allowed)})
        os.sched_setaffinity(0, _allowed)


def _worked() -> dict[int, int]:
    """Nanoseconds on a CPU of each thread of this process."""
    return {
        int(task.name): int((task / "schedstat").read_text().split()[0]) for task in TASKS.iterdir()
    }


def _one_cpu_of_each_core() -> list[int]:
    cores: dict[str, int] = {}
    for cpu in sorted(_allowed):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = siblings.read_text() if siblings.exists() else str(cpu)
        cores.setdefault(core, cpu)
    return list(cores.values())
