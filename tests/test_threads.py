"""Threads, forks and signals: the same bits whoever computes them, and no call that hangs.

What could hang or kill the process runs as a script in a process of its own, with a time limit.
"""

import ctypes
import platform
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastconv as fc
from fastconv import _core
from helpers import run_script

RNG = np.random.default_rng(9)
COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 64)


def reals(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


IMAGE = reals(2, 6, 19, 23)
CALLS = {
    "conv1d": (reals(1, 3, 50), reals(5, 3, 4)),
    "conv2d": (IMAGE, reals(7, 6, 3, 3), reals(7), 2, 1),
    "conv2d of one pixel": (reals(1, 1, 1, 1), reals(1, 1, 1, 1)),
    "conv2d depthwise": (IMAGE, reals(12, 1, 3, 3), None, 1, 1, 1, 6),
    "conv2d pointwise": (IMAGE, reals(33, 6, 1, 1)),
    "conv3d": (reals(1, 4, 5, 9, 17, dtype=np.float64), reals(3, 4, 2, 3, 3, dtype=np.float64)),
    "conv_transpose2d": (IMAGE, reals(6, 4, 3, 3), None, 2, 1),
    "linear": (reals(5, 70), reals(9, 70)),
    "max_pool2d": (IMAGE, 3, 2, 1),
    "avg_pool2d": (IMAGE, 3, 2, 1),
    "adaptive_avg_pool2d": (IMAGE, 5),
    "global_avg_pool": (IMAGE,),
    "gelu": (reals(3, 5000),),
    "prelu": (IMAGE, reals(6)),
}
EXPLAINED = [name for name in CALLS if name not in ("gelu", "prelu")]


def call(name):
    return getattr(fc, name.split()[0])(*CALLS[name])


def explain(name):
    return fc.explain(name.split()[0], *CALLS[name])


@pytest.fixture
def default_threads():
    """Undoes set_num_threads, which has no word for "as before"."""
    yield
    _core.set_defaults(threads=0)


# --- counts and bits ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_given_number_of_threads_is_exact(name, default_threads):
    for n in COUNTS:
        with fc.using(threads=n):
            assert explain(name).threads == n
        fc.set_num_threads(n)
        assert explain(name).threads == n == fc.get_num_threads()


@pytest.mark.parametrize("name", CALLS)
def test_any_number_of_threads_gives_the_same_bits(name):
    with fc.using(threads=1):
        want = call(name)
    for n in COUNTS:
        with fc.using(threads=n):
            assert_array_equal(call(name), want, f"{n} threads")


@pytest.mark.parametrize("algorithm", fc._core.algorithms())
def test_any_number_of_threads_gives_the_same_bits_with_every_algorithm(algorithm):
    layout = "NHWC" if algorithm == "grouped" else "NCHW"  # it wants channels side by side
    x, w = reals(2, 21, 40, 6) if layout == "NHWC" else reals(2, 6, 21, 40), reals(12, 1, 1, 1)
    with fc.using(algorithm=algorithm, threads=1):
        want = fc.conv2d(x, w, groups=6, layout=layout)
    for isa in fc.isas():
        for n in COUNTS:
            with fc.using(algorithm=algorithm, threads=n, isa=isa):
                y = fc.conv2d(x, w, groups=6, layout=layout)
            assert_array_equal(y, want, f"{isa}, {n} threads")


def test_a_small_problem_is_not_shared_unasked():
    assert explain("conv2d of one pixel").threads == 1


def test_using_is_for_its_own_thread_and_set_num_threads_for_all(default_threads):
    def seen():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: explain("conv2d").threads).result()

    unasked = seen()
    with fc.using(threads=7):
        assert (explain("conv2d").threads, seen()) == (7, unasked)
    fc.set_num_threads(5)
    assert seen() == 5
    with fc.using(threads=3):
        assert (explain("conv2d").threads, seen()) == (3, 5)
    assert explain("conv2d").threads == 5


def test_sixteen_threads_calling_at_once_get_the_bits_of_one():
    want = {name: call(name) for name in CALLS}
    start = threading.Barrier(16)

    def work(seed):
        rng = np.random.default_rng(seed)
        start.wait()
        for name in rng.choice(list(CALLS), 60):
            with fc.using(threads=int(rng.integers(1, 5))):
                assert_array_equal(call(str(name)), want[name])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))


# --- processes ----------------------------------------------------------------------------------

COMPUTING = """
import multiprocessing, os, signal, sys, threading, time
import numpy as np
import fastconv as fc

x = np.random.default_rng(1).standard_normal((1, 8, 16, 16)).astype(np.float32)
w = np.random.default_rng(2).standard_normal((8, 8, 3, 3)).astype(np.float32)


def compute(_=None):
    with fc.using(threads=2):
        return fc.conv2d(x, w).tobytes() + fc.avg_pool2d(x, 3).tobytes() + fc.gelu(x).tobytes()


def in_a_child(function):
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        os._exit(0 if function() == want else 1)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"the child ended with {status}"


"""


def test_children_of_a_fork_compute():
    script = """
want = compute()
for _ in range(20):
    in_a_child(compute)
    assert compute() == want

def grandchild():
    first = compute()
    in_a_child(compute)
    return first

in_a_child(grandchild)
threads = [threading.Thread(target=in_a_child, args=(compute,)) for _ in range(3)]
for thread in threads:
    thread.start()
    thread.join()
"""
    run_script(COMPUTING + script)


def test_children_compute_that_were_forked_while_another_thread_called():
    script = """
want, stop = compute(), threading.Event()

def keep_computing():
    while not stop.is_set():
        compute()

thread = threading.Thread(target=keep_computing, daemon=True)
thread.start()
for _ in range(150):
    assert compute() == want
    in_a_child(compute)
stop.set()
thread.join()
"""
    run_script(COMPUTING + script)


def test_children_compute_whose_fork_began_in_a_call_and_happened_after_it():
    before = """
import os
busy = []
# Of hooks before a fork the first registered runs last: here, when the call has ended that the
# package's own hook found running.
os.register_at_fork(before=lambda: [thread.join() for thread in busy])
"""
    script = """
want = compute()

def long_call():
    with fc.using(isa="baseline", threads=2):
        fc.conv2d(np.ones((1, 64, 100, 100)), np.ones((64, 64, 5, 5)))

thread = threading.Thread(target=long_call)
thread.start()
busy.append(thread)
time.sleep(0.05)
assert thread.is_alive(), "the call ended too soon: nothing is tested"
in_a_child(compute)
assert compute() == want
"""
    run_script(before + COMPUTING + script)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_of_processes_computes(method):
    script = f"""
if __name__ == "__main__":
    want = compute()
    with multiprocessing.get_context({method!r}).Pool(3) as pool:
        assert pool.map_async(compute, range(12)).get(30) == [want] * 12
"""
    run_script(COMPUTING + script)


def test_the_process_ends_while_a_daemon_thread_is_in_a_call():
    script = """
big = np.ones((1, 64, 200, 200))
def work():
    with fc.using(isa="baseline"):
        fc.conv2d(big, np.ones((64, 64, 9, 9)))
threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
"""
    run_script(COMPUTING + script)


@pytest.mark.skipif(not _core.openmp(), reason="this build is sequential")
@pytest.mark.parametrize(
    "line",
    ["callers 24 20 1", "forks 5 9", "limit nproc 0 2", "limit nproc 1 3", "limit as 4000 4",
     "limit data 0 5", "idle 6", "variables 7"],
)  # fmt: skip
def test_threads_and_processes_in_short(line):
    """`python -m fastconv.testing threads` runs these for minutes."""
    run_script(f"""
from fastconv.testing import threads
if __name__ == "__main__":
    threads.check({line!r})
""")


# --- signals ------------------------------------------------------------------------------------

# Each takes a second or more on the slowest ISA, with little memory: to touch much of it for the
# first time takes the system long, and that is not interrupted.
LONG = {
    "im2col": "fc.conv2d, images, kernel",
    "direct": "fc.conv2d, images, kernel[:8]",
    "pointwise": "fc.conv2d, np.ones((1, 2000, 60, 60)), np.ones((2000, 2000, 1, 1))",
    "depthwise": "fc.conv2d, images, np.ones((64, 1, 41, 41)), None, 1, 0, 1, 64",
    "transposed": "fc.conv_transpose2d, images, kernel, None, 3",
    "long chains": "fc.linear, np.ones((3000, 6000)), np.ones((2000, 6000))",
    "pooling": "fc.avg_pool2d, np.broadcast_to(1.5, (1, 16, 1000, 1000)), 99, 1",
    "pooling with indices": "fc.max_pool2d, images, 60, 1, 0, 1, False, True",
    "pooling of one row": "fc.avg_pool1d, row, 40_000, 1",
    "pooling of one row with indices": "fc.max_pool1d, row, 5000, 1, 0, 1, False, True",
    "activation": "fc.gelu, np.ones(30_000_000), 'tanh'",
}


@pytest.mark.parametrize("name", LONG)
def test_control_c_ends_a_long_call_within_a_second(name):
    algorithm = name if name in fc._core.algorithms() else None
    script = f"""
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs in the background ignore it
images, kernel = np.ones((1, 64, 200, 200)), np.ones((64, 64, 9, 9))
row = np.ones((1, 1, 500_000))
want = compute()
function, *arguments = {LONG[name]}

def press():
    time.sleep(0.1)
    pressed.append(time.process_time())
    os.kill(os.getpid(), signal.SIGINT)

for threads in (1, 2):
    pressed = []
    thread = threading.Thread(target=press)
    thread.start()
    try:
        with fc.using(isa="baseline", threads=threads, algorithm={algorithm!r}):
            function(*arguments)
        raise SystemExit("the call ended before the signal: nothing is tested")
    except KeyboardInterrupt:
        late = (time.process_time() - pressed[0]) / threads  # a busy machine does not stretch it
    assert late < 1, f"{{late:.2f}} s with {{threads}} threads"
    thread.join()
    assert compute() == want
"""
    run_script(COMPUTING + script)


def test_a_signal_handler_may_call_in_the_middle_of_a_call():
    script = """
images, kernel = np.ones((1, 64, 140, 140)), np.ones((64, 64, 9, 9))
handled = []

def handler(*_):
    assert compute() == want
    handled.append(1)

with fc.using(isa="baseline", threads=2):
    want = compute()
    large = fc.conv2d(images, kernel)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    again = fc.conv2d(images, kernel)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert (again == large).all()
    assert compute() == want
assert len(handled) > 2, "only before and after the call, perhaps"
"""
    run_script(COMPUTING + script)


@pytest.mark.parametrize("line", ["elsewhere pool 2 50 5", "exit thread 40 4", "stack 256 6"])
def test_signals_in_short(line):
    """`python -m fastconv.testing signals` runs these for minutes."""
    run_script(f"""
from fastconv.testing import signals
if __name__ == "__main__":
    signals.check({line!r})
""")


# --- the floating-point environment -------------------------------------------------------------

UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}.get(platform.machine())


@pytest.mark.skipif(UPWARD is None, reason="the rounding modes of this machine are not known here")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CALLS)
def test_the_rounding_mode_of_the_caller_is_neither_used_nor_lost(name, threads):
    libm = ctypes.CDLL("libm.so.6")
    with fc.using(threads=threads):
        want = call(name)
        nearest = libm.fegetround()
        assert libm.fesetround(UPWARD) == 0
        try:
            found = call(name)
            after = libm.fegetround()
        finally:
            libm.fesetround(nearest)
    assert after == UPWARD
    assert_array_equal(found, want)
