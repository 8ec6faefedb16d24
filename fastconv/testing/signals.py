"""Signals, shutdown, small stacks: a call can be left at any time, and needs little room.

interrupt conv 2 87 5     Ctrl-C so many milliseconds into a call that takes seconds, on so many
                          threads, in the main thread: KeyboardInterrupt within a second, at most
                          half of a run's later than a fifth of one; the next call is right
elsewhere pool 2 50 6     the same while the call is in a Python thread of its own
exit daemon 40 7          the interpreter ends so many milliseconds into a call of a daemon
exit thread 40 8          thread, or by sys.exit in the main thread while another computes
stack 256 9               on stacks of so many kilobytes, and Python threads of 64
"""

from __future__ import annotations

import _thread
import os
import random
import resource
import signal
import threading
import time

import numpy as np

import fastconv as fc
from fastconv.testing._processes import script
from fastconv.testing._run import Run, Violation

KINDS = ("interrupt", "interrupt", "interrupt", "elsewhere", "exit", "interrupt", "stack")

# Each takes seconds on the slowest ISA, with little memory: to touch much of it for the first time
# takes the system long, and that is not interrupted.
LONG = {
    "conv": "fc.conv2d(images, np.ones((64, 64, 9, 9)))",
    "transposed": "fc.conv_transpose2d(images, np.ones((64, 64, 9, 9)), None, 3)",
    "depthwise": "fc.conv2d(images, np.ones((64, 1, 41, 41)), None, 1, 0, 1, 64)",
    "pointwise": "fc.conv2d(np.ones((1, 2000, 60, 60)), np.ones((2000, 2000, 1, 1)))",
    "linear": "fc.linear(np.ones((3000, 6000)), np.ones((2000, 6000)))",
    "pool": "fc.avg_pool2d(np.broadcast_to(1.5, (1, 16, 1000, 1000)), 99, 1)",
    "indices": "fc.max_pool2d(images, 60, 1, 0, 1, False, True)",
    "gelu": "fc.gelu(np.ones(30_000_000), 'tanh')",
}
SOON = 0.2  # seconds


def line(index: int) -> str:
    rng, kind = random.Random(index), KINDS[index % len(KINDS)]
    if kind == "exit":
        return f"exit {rng.choice(('daemon', 'thread'))} {rng.randrange(300)} {index}"
    if kind == "stack":
        return f"stack {rng.choice((256, 512))} {index}"
    return f"{kind} {rng.choice(list(LONG))} {rng.randint(1, 2)} {rng.randrange(20, 300)} {index}"


def check(line: str) -> dict[str, int]:
    kind, *words = line.split()
    return globals()[f"_{kind}"](*words)


def _compute(name: str, threads: int) -> None:
    with fc.using(isa="baseline", threads=threads):
        eval(LONG[name], {"fc": fc, "np": np, "images": _IMAGES})


_IMAGES = np.ones((1, 64, 200, 200))
_SMALL = np.random.default_rng(1).standard_normal((1, 5, 20, 20)).astype(np.float32)


def _next_call() -> bytes:
    return fc.conv2d(_SMALL, _SMALL[:, :, :3, :3]).tobytes() + fc.max_pool2d(_SMALL, 3).tobytes()


def _interrupt(name: str, threads: str, after: str, _: str) -> dict[str, int]:
    return _pressed(lambda: _compute(name, int(threads)), int(after), int(threads))


def _elsewhere(name: str, threads: str, after: str, _: str) -> dict[str, int]:
    ended = threading.Event()

    def work():
        try:
            _compute(name, int(threads))
        finally:
            ended.set()

    def wait():
        _thread.start_new_thread(work, ())
        ended.wait()

    found = _pressed(wait, int(after), int(threads))
    ended.wait()
    return found


def _pressed(call, milliseconds: int, threads: int) -> dict[str, int]:
    """Presses Ctrl-C while the call runs in the main thread."""
    want, pressed = _next_call(), []

    def press():
        time.sleep(milliseconds / 1000)
        pressed[:] = time.monotonic(), time.process_time()
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=press)
    try:
        try:
            thread.start()
            call()
            thread.join()  # the call ended sooner than thought: the signal comes here
            return {"ended before": 1}
        except KeyboardInterrupt:
            late, used = time.monotonic() - pressed[0], time.process_time() - pressed[1]
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    if min(late, used / threads) > 1:  # other processes do not stretch the second
        raise Violation(f"{late:.2f} s until the call ended")
    if _next_call() != want:
        raise Violation("the next call is wrong")
    return {"interrupts": 1, "of them within 0.2 s": int(late <= SOON)}


def _exit(how: str, after: str, _: str) -> dict[str, int]:
    script(f"""
import sys, threading, time
import numpy as np
import fastconv as fc
def work():
    with fc.using(isa="baseline", threads=2):
        while True:
            fc.conv2d(np.ones((1, 64, 100, 100)), np.ones((64, 64, 5, 5)))
            if {how == "thread"}:
                break
threading.Thread(target=work, daemon={how == "daemon"}).start()
time.sleep({int(after) / 1000})
sys.exit(0)
""")
    return {"exits": 1}


def _stack(kilobytes: str, seed: str) -> dict[str, int]:
    """Calls of all kinds, on the least stacks that Python itself can live with."""
    text = f"""
import threading
from fastconv.testing import threads
threads._right(threads._mixed({seed}, 3), 2)
calls, right = threads._mixed({seed}, 40), []
def work():
    right.append(all(threads._right(calls, n) for n in (1, 2, 3)))
work()
threading.stack_size(65536)
for _ in range(2):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
assert right == [True] * 3, right
"""
    limit = int(kilobytes) << 10

    def prepare():
        resource.setrlimit(resource.RLIMIT_STACK, (limit, limit))

    script(text, prepare=prepare, OMP_STACKSIZE="16k" if int(seed) % 2 else "64k")
    return {"small stacks": 1}


RUN = Run(
    line, check, cases=42, full=1400, processes=1,
    promise="Ctrl-C ends a call within a second, half of them within a fifth of one; an interpreter "
    "ends amid calls; stacks may be small",
)  # fmt: skip
