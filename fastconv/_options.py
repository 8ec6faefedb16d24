"""Options of a call that are not arguments: ISA, algorithm, precision, threads; and the environment variables.

FASTCONV_ISA          caps the instruction set: avx512, avx2, neon, baseline
OMP_NUM_THREADS       read by OpenMP: the most threads a call takes unasked
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from . import _core
from ._version import __version__

PRECISIONS = ("highest",)


def _quota(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> float:
    """CPUs that quotas allow: the least of this process's control group and those around it; infinity where none is.

    In a container its own group is the root; under systemd and others it lies somewhere beneath.
    """
    folders = {root, f"{root}/cpu"}
    try:
        with open(own, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, ValueError):
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = [f"{root}/cpu" if controllers else root, *path.strip("/").split("/")]
        if ".." not in names:
            folders.update("/".join(names[:n]) for n in range(1, len(names) + 1))
    return min(map(_quota_of, folders))


def _quota_of(folder: str) -> float:
    """CPUs that one control group allows: cgroup v2's cpu.max, v1's cfs files."""
    try:
        try:
            with open(f"{folder}/cpu.max", encoding="ascii") as file:
                quota, period = file.read().split()
        except FileNotFoundError:
            with open(f"{folder}/cpu.cfs_quota_us", encoding="ascii") as file:
                quota = file.read()
            with open(f"{folder}/cpu.cfs_period_us", encoding="ascii") as file:
                period = file.read()
        return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else math.inf
    except (OSError, ValueError):  # "max" is no number
        return math.inf


def _cpus() -> int:
    """CPUs this process may use: its affinity, within the container's quota, at least one."""
    try:
        affinity = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        affinity = os.cpu_count() or 1
    # With OMP_PROC_BIND OpenMP has bound this thread to one CPU by now, and knows what there was before.
    affinity = max(affinity, _core.processors())
    quota = _quota()
    return max(1, affinity if quota == math.inf else min(affinity, math.ceil(quota)))


def _isa_row(name: str) -> int:
    if name not in _core.isas():
        known = ", ".join(_core.isas())
        raise ValueError(f"using: isa {name!r} does not run here; this machine runs {known}")
    return _core.isa_rows().index(name)


def _isa_cap() -> int:
    """The best row that runs and is not above FASTCONV_ISA, which is ignored where it is unset or unknown."""
    rows = _core.isa_rows()
    name = os.environ.get("FASTCONV_ISA", "").strip().lower() or rows[0]
    if name not in rows:
        message = f"FASTCONV_ISA={name!r} is not one of {', '.join(rows)}: ignored"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        name = rows[0]
    return next(row for row in range(rows.index(name), len(rows)) if rows[row] in _core.isas())


def _threads(op: str, n: object) -> int:
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"{op}: threads must be an int, not {type(n).__name__}")
    if not 1 <= n <= 1024:
        raise ValueError(f"{op}: threads must lie between 1 and 1024, not {n}")
    return n


_core.set_defaults(isa=_isa_cap(), limit=_cpus())
os.register_at_fork(
    before=_core.before_fork,
    after_in_parent=_core.after_fork,
    after_in_child=_core.after_fork_in_child,
)


@contextmanager
def using(
    *,
    isa: str | None = None,
    algorithm: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> Iterator[None]:
    """Within the block, calls of this thread (or task) use the given ISA, algorithm, precision and number of threads.

    isa: a name from ``isas()``. algorithm: a name from ``algorithms()``; a convolution it cannot do raises. precision:
    "highest", the only class there is so far. threads: exact, 1 to 1024, even on fewer cores and for tiny problems.

    Raises TypeError and ValueError for anything else.
    """
    old_isa, old_algorithm, old_precision, old_threads = _core.options.get()
    if algorithm is not None and algorithm not in algorithms():
        raise ValueError(f"using: algorithm {algorithm!r} is not one of {', '.join(algorithms())}")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"using: precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    token = _core.options.set(
        (
            old_isa if isa is None else _isa_row(isa),
            old_algorithm if algorithm is None else algorithm,
            old_precision if precision is None else precision,
            old_threads if threads is None else _threads("using", threads),
        )
    )
    try:
        yield
    finally:
        _core.options.reset(token)


def set_num_threads(n: int) -> None:
    """Every later call in this process uses exactly n parts, 1 to 1024, unless ``using(threads=)`` says otherwise."""
    _core.set_defaults(threads=_threads("set_num_threads", n))


def get_num_threads() -> int:
    """The number of threads set, or the most a call takes unasked: OpenMP's, within affinity and container quota."""
    _, exact, most = _core.in_force()
    return exact or most


def isas() -> tuple[str, ...]:
    """Instruction sets this machine runs, best first; the first is used unless capped by FASTCONV_ISA or ``using``."""
    return _core.isas()


def algorithms() -> tuple[str, ...]:
    """Convolution algorithms in order of preference, and "auto", which is what a call uses unless it
    says otherwise: the first of them that can and should do the problem."""
    return *_core.algorithms(), "auto"


def show_config() -> None:
    """Prints version, ISA in force, ISAs of the build, OpenMP, threads."""
    in_force = _core.isa_rows()[_core.in_force()[0]]
    openmp = "yes" if _core.openmp() else "no (sequential build)"
    print(f"fastconv {__version__}")
    print(
        f"isa       {in_force} (machine runs {', '.join(_core.isas())}; built {', '.join(_core.isa_rows())})"
    )
    print(f"openmp    {openmp}")
    print(f"threads   {get_num_threads()}")
