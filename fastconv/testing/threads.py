"""Threads and processes: the same bits whoever calls, no call that hangs, no process that ends.

callers 64 1000 7     so many Python threads make so many mixed calls each, from this seed: serial
                      bits, and no more threads of the system's than callers and nine teams
forks 50 8            children of a fork compute, while another thread of the parent does
limit data 3000 9     in a process that may have so many more kilobytes ("as": of address space,
                      "data": of memory to write to), or processes ("nproc"), calls are right or
                      a MemoryError, and are right afterwards
idle 10               a tenth of a second after a call no thread uses the CPU
variables 11          OMP_NUM_THREADS, affinity, nonsense in the environment
beside torch first    in one process with another library that has threads, imported first or last
pool fork             pools of processes of the standard library's, of joblib's, of PyTorch's
"""

from __future__ import annotations

import importlib.util
import os
import random
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import fastconv as fc
from fastconv import _core
from fastconv.testing import _calls
from fastconv.testing._calls import Call
from fastconv.testing._processes import in_a_child, script
from fastconv.testing._run import Run, Violation

KEPT_TEAMS, SPARE = 8, 2  # MOST_TEAMS and SPARE of parallel.c
LIMITS = {"as": resource.RLIMIT_AS, "data": resource.RLIMIT_DATA, "nproc": resource.RLIMIT_NPROC}
BESIDE = [
    *(f"beside {name} {when}" for name in ("torch", "sklearn") for when in ("first", "last")),
    *(f"pool {kind}" for kind in ("fork", "spawn", "joblib", "loader")),
]


def line(index: int) -> str:
    if index < len(BESIDE):
        return BESIDE[index]
    rng, kind = random.Random(index), index % 10
    if kind == 0:
        return f"callers 64 1000 {index}"
    if kind == 1:
        return f"idle {index}"
    if kind == 2:
        return f"variables {index}"
    if kind % 2:
        return f"forks 50 {index}"
    limit = rng.choice(tuple(LIMITS))
    return f"limit {limit} {rng.randrange(4 if limit == 'nproc' else 40_000)} {index}"


def check(line: str) -> dict[str, int]:
    kind, *words = line.split()
    return globals()[f"_{kind}"](*words)


def _mixed(seed: int, n: int) -> list[tuple]:
    """(function that computes, its result) of calls of all kinds."""
    rng, found = random.Random(seed), []
    for _ in range(n):
        call = _calls.draw(rng, 20_000)
        arrays = call.arrays(np.float32) if isinstance(call, Call) else call.reals(np.float32)

        def compute(call=call, arrays=arrays):
            return call.run(*arrays)

        with fc.using(threads=1):
            found.append((compute, compute()))
    return found


def _right(calls: list[tuple], threads: int) -> bool:
    with fc.using(threads=threads):
        for compute, want in calls:
            if not _same(compute(), want):
                return False
    return True


def _same(found, want) -> bool:
    if not isinstance(found, tuple):
        found, want = (found,), (want,)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, want, strict=True))


def _threads_of_the_system() -> int:
    return len(os.listdir("/proc/self/task"))


def _callers(callers: str, each: str, seed: str) -> dict[str, int]:
    calls, before = _mixed(int(seed), 40), _threads_of_the_system()
    most = [0]
    ended = threading.Event()

    def watch():
        while not ended.wait(0.02):
            most[0] = max(most[0], _threads_of_the_system())

    def work(caller: int) -> bool:
        rng = random.Random(caller)
        for _ in range(int(each)):
            if not _right([rng.choice(calls)], rng.choice((1, 2, 3, 4))):
                return False
        return True

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(int(callers)) as pool:
            right = list(pool.map(work, range(int(callers))))
    finally:
        ended.set()
        watcher.join()
    if not all(right):
        raise Violation("bits differ from those of serial calls")
    # the teams kept and the one at work; threads that are tried for one more, and those that just ended
    workers = _core.processors() - 1
    allowed = before + 1 + int(callers) + (KEPT_TEAMS + 1) * workers + 2 * (workers + SPARE)
    if most[0] > allowed:
        raise Violation(f"{most[0]} threads of the system's, more than {allowed}")
    return {"calls": int(callers) * int(each)}


def _forks(forks: str, seed: str) -> dict[str, int]:
    calls, stop = _mixed(int(seed), 5), threading.Event()

    def compute():
        while not stop.is_set():
            _right(calls, 2)

    def child() -> bool:
        if int(seed) % 3 == 0:  # and a grandchild
            in_a_child(lambda: _right(calls, 2), "the grandchild")
        return _right(calls, 2)

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        for n in range(int(forks)):
            in_a_child(child, f"child {n}")
            if not _right(calls, 2):
                raise Violation(f"wrong in the parent after fork {n}")
    finally:
        stop.set()
        thread.join()
    return {"forks": int(forks)}


def _limit(kind: str, room: str, seed: str) -> dict[str, int]:
    calls = _mixed(int(seed), 5)

    def child() -> bool:
        limit, room_ = LIMITS[kind], int(room)
        if kind == "nproc":
            if os.getuid() == 0:
                os.setuid(65534)  # root has no such limit
            most = 1 + room_
        else:
            fields = Path("/proc/self/statm").read_text().split()
            pages = int(fields[0 if kind == "as" else 5])
            most = pages * resource.getpagesize() + (room_ << 10)
        resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))
        for n in (2, 8):
            try:
                if not _right(calls, n):
                    return False
            except MemoryError:
                pass
        resource.setrlimit(limit, (resource.getrlimit(limit)[1],) * 2)
        return _right(calls, 2)

    in_a_child(child)
    return {"limits": 1}


_WORK = """
import os, sys, time
import numpy as np
x = np.random.default_rng(1).standard_normal((1, 16, 40, 40)).astype(np.float32)
w = np.random.default_rng(2).standard_normal((16, 16, 3, 3)).astype(np.float32)


def compute(_=None):
    import fastconv as fc
    with fc.using(threads=2):
        return fc.conv2d(x, w).tobytes() + fc.avg_pool2d(x, 3).tobytes() + fc.gelu(x).tobytes()
"""


def _idle(_: str) -> dict[str, int]:
    script(
        _WORK
        + """
compute()
time.sleep(0.1)
before = time.process_time()
time.sleep(0.5)
used = time.process_time() - before
assert used < 0.01, f"{used:.3f} s of CPU in half a second"
"""
    )
    return {"idle": 1}


def _variables(seed: str) -> dict[str, int]:
    rng = random.Random(int(seed))
    wanted = rng.choice(("1", "2", "3", "64", "0", "-1", "abc", "99999999999999999999", "2,3", ""))
    cpus = sorted(os.sched_getaffinity(0))
    some = set(rng.sample(cpus, rng.randint(1, len(cpus))))
    isa = rng.choice(("", "avx2", "baseline", "sse9", "AVX512", "\\x01"))
    text = (
        _WORK
        + f"""
import warnings
os.sched_setaffinity(0, {some!r})
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import fastconv as fc
most = min({len(some)}, int({wanted!r}) if {wanted!r} in ("1", "2", "3", "64") else {len(some)})
assert 1 <= fc.get_num_threads() <= most, fc.get_num_threads()
known = {isa!r}.lower() in ("", *fc._core.isa_rows())
assert known == (not said), [str(w.message) for w in said]
assert fc.explain("conv2d", x, w).threads <= most
assert len(compute()) > 0
"""
    )
    script(text, OMP_NUM_THREADS=wanted, FASTCONV_ISA=isa)
    return {"environments": 1}


def _beside(library: str, when: str) -> dict[str, int]:
    if importlib.util.find_spec(library) is None:
        return {f"not checked, {library} is not installed": 1}
    other = {
        "torch": "import torch\ndef other(): return torch.conv2d(torch.ones(1, 16, 40, 40), torch.ones(16, 16, 3, 3))",
        "sklearn": "from sklearn.cluster import KMeans\n"
        "def other(): return KMeans(3, n_init=1).fit(np.random.default_rng(1).random((3000, 5)))",
    }[library]
    parts = [other, "import fastconv"] if when == "first" else ["import fastconv", other]
    script(
        _WORK
        + "\n".join(parts)
        + """
import threading
want = compute()
for _ in range(20):
    other()
    assert compute() == want
threads = [threading.Thread(target=f) for f in (other, compute) * 4]
[t.start() for t in threads]
[t.join() for t in threads]
assert compute() == want
""",
    )
    return {"libraries": 1}


def _pool(kind: str) -> dict[str, int]:
    library = {"joblib": "joblib", "loader": "torch"}.get(kind, "os")
    if importlib.util.find_spec(library) is None:
        return {f"not checked, {library} is not installed": 1}
    with_pool = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
from fastconv.testing.threads import convolved
want = convolved(3)
with ProcessPoolExecutor(3, multiprocessing.get_context("KIND")) as pool:
    assert list(pool.map(convolved, [3] * 12)) == [want] * 12
""".replace("KIND", kind)
    with_joblib = """
import joblib
from fastconv.testing.threads import convolved
want = convolved(3)
for backend in ("loky", "multiprocessing", "threading"):
    assert joblib.Parallel(2, backend)(joblib.delayed(convolved)(3) for _ in range(8)) == [want] * 8
"""
    with_loader = """
import torch
from torch.utils.data import DataLoader, Dataset
from fastconv.testing.threads import convolved
want = convolved(3)
class Images(Dataset):
    def __len__(self): return 12
    def __getitem__(self, n): return convolved(3)
for _ in range(2):
    loader = DataLoader(Images(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert list(loader) == [want] * 12
    assert convolved(3) == want
"""
    script({"joblib": with_joblib, "loader": with_loader}.get(kind, with_pool))
    return {"pools": 1}


def convolved(seed: int) -> bytes:
    """What processes of a pool compute."""
    x = np.random.default_rng(seed).standard_normal((1, 8, 30, 30))
    with fc.using(threads=2):
        return fc.max_pool2d(fc.conv2d(x, np.ones((8, 8, 3, 3))), 2).tobytes()


RUN = Run(
    line, check, cases=18, full=218, timeout=300, processes=1,
    promise="serial bits from 64 threads, in children of forks, beside other libraries; no process "
    "is ended by a thread that cannot be made",
)  # fmt: skip
