"""Refused memory: each allocation of a call fails once, and nothing comes of it but a MemoryError.

Whatever it is that was refused, of arrays or of Python's own, nothing is lost, and the next call is
right. In calls that succeed the arrays that are allocated are the result and the workspace that
`workspace_bytes` states, and nothing else. Under a limit of the system's the same holds.

    arrays judged | conv2d n1 c3-5 g1 i9x21 k3x3 s1x1 d1x1 p1x1 q1x1
    python known | max_pool2d 2x3x9x37 kernel_size=(3,3)
    limit 300 | conv2d n1 c3-5 g1 i9x21 k3x3 s1x1 d1x1 p1x1 q1x1
    arrays network | 7

    judged, known   the call is judged each time, or found among those that were made before
    limit           kilobytes of address space beyond what the process has
    network         layers called one by one, and prepared; made from the number
"""

from __future__ import annotations

import os
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fastconv as fc
from fastconv import _memory, nn
from fastconv.testing import _calls
from fastconv.testing._calls import Call
from fastconv.testing._refusals import counted, refuse_arrays, refuse_python
from fastconv.testing._run import Run, Violation

KINDS = ("arrays judged", "arrays known", "python judged", "python known") * 4


def line(index: int) -> str:
    rng = random.Random(index)
    if index % 20 == 19:
        return f"arrays network | {index}"
    call = _calls.draw(rng, 20_000)
    if index % 20 > 16:
        return f"limit {rng.choice((0, 1, 10, 100, 1000, 10_000))} | {call}"
    kind = KINDS[index % 20 % len(KINDS)]
    if not _of_the_engine(call):  # but NumPy's, which does not survive all refusals of Python's
        kind = kind.replace("python", "arrays")
    return f"{kind} | {call}"


def check(line: str) -> dict[str, int]:
    words, _, what = line.partition(" | ")
    kind, how = words.split()
    if how == "network":
        action = _network(int(what))
    else:
        action = _call(_calls.parse(what), how == "judged")
    if kind == "limit":
        return {"limits": _limited(action, int(how) << 10)}
    if kind == "python":
        return {"refusals of Python's": refuse_python(action, _same)}
    if how == "known":
        _nothing_else_is_allocated(_calls.parse(what))
    return {"refusals of arrays": refuse_arrays(action, _same)}


class Other(np.ndarray):
    """An array of another class, with which calls are judged anew each time."""


def _call(call, judged: bool) -> Callable[[], tuple]:
    arrays = call.arrays(np.float32) if isinstance(call, Call) else call.reals(np.float32)
    if judged:
        arrays = (arrays[0].view(Other), *arrays[1:])
    if isinstance(call, Call):
        return lambda: call.run(*arrays)
    return lambda: (call.run(*arrays),)


def _network(seed: int) -> Callable[[], tuple]:
    """Makes a network, calls it layer by layer, prepares it, and calls that."""
    rng = random.Random(seed)
    channels, kernel = rng.choice((3, 8, 16)), rng.choice((1, 3))
    x = np.random.default_rng(seed).standard_normal((2, 3, 17, 17)).astype(np.float32)

    def action():
        generator = np.random.default_rng(seed)
        model = nn.Sequential(
            nn.Conv2d(3, channels, kernel, padding=kernel // 2), nn.BatchNorm2d(channels),
            nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(channels, channels, 3, groups=channels),
            nn.ConvTranspose2d(channels, 4, 2, 2), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(64, 5),
        ).eval()  # fmt: skip
        for parameter, value in list(model.state_dict().items()):
            shape = np.shape(value)
            if shape and "running" not in parameter:
                model.load_state_dict(
                    {parameter: generator.standard_normal(shape).astype(np.float32)}, strict=False
                )
        return model(x), model.prepare(x.shape, fold=False)(x)

    return action


def _same(found: tuple, want: tuple) -> bool:
    pairs = zip(found, want, strict=True)
    return all(a.shape == b.shape and np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def _nothing_else_is_allocated(call) -> None:
    """What a call that was made before allocates is its result and its workspace."""
    arrays = call.arrays(np.float32) if isinstance(call, Call) else call.reals(np.float32)
    options = call.options if isinstance(call, Call) else call.options()
    if not isinstance(call, Call) and call.last or not _of_the_engine(call):
        return
    run = getattr(fc, call.op)
    run(*arrays, **options)
    workspace = fc.workspace_bytes(call.op, *arrays, **options)
    with counted() as counter:
        counter.start()
        result = run(*arrays, **options)
        results = result if isinstance(result, tuple) else (result,)
        said = workspace + sum(y.nbytes for y in results)
        if counter.nbytes != said:
            raise Violation(f"{counter.nbytes} bytes are allocated, not {said}")


def _of_the_engine(call) -> bool:
    return call.op.startswith(("conv", "max_pool", "avg_pool", "global", "linear"))


def _limited(action: Callable[[], tuple], room: int) -> int:
    """In a child that may have so much more address space: a MemoryError or the result, and then the result."""
    want = action()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            code = _in_a_child(action, want, room)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        ended = f"ended by signal {-code}" if code < 0 else f"exited with {code}"
        raise Violation(f"the child {ended}")
    return 1


def _in_a_child(action: Callable[[], tuple], want: tuple, room: int) -> int:
    """The status to exit with: 0 where all is well."""
    _memory.free_memory()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + room, hard))
    for threads in (1, 2, 8):
        with fc.using(threads=threads):
            try:
                found = action()
            except MemoryError:
                found = None
        if found is not None and not _same(found, want):
            return 2
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    return 0 if _same(action(), want) else 3


RUN = Run(
    line, check, cases=300, full=20_000,
    promise="refused memory is a MemoryError: nothing is lost, and the next call is right",
)  # fmt: skip
