"""`_core.Program`: many steps with no Python between them, with the bits of single calls."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest

import fastconv as fc
from cases import DTYPES
from fastconv import _arguments, _core, _memory
from helpers import assert_same_bits, run_script

RNG = np.random.default_rng(12)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def reals(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def conv(x, w, b, y, prepared=None, residual=None, **options):
    """The step of a conv2d from x into y, which lies as a new result does."""
    given = {"stride": 1, "padding": 1, "groups": 1, "activation": None, "after": False} | options
    problem, x, w, b, _, _, r = _arguments.convolution(
        "conv2d", 2, False, x, w, b, given["stride"], given["padding"], 0, 1, given["groups"],
        None, given["activation"], None, None, residual, given["after"], allocate=False,
    )  # fmt: skip
    return _core.conv_step(problem, x, w, b, y, prepared, r)


def pool(x, y):
    options = (3, 2, 1, 1, False, True, None, False, None)
    problem, x, *_ = _arguments.pooling("max_pool2d", 2, "max", x, *options, allocate=False)
    return _core.pool_step(problem, x, y)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@every_dtype
def test_a_prologue_gives_the_bits_of_separate_steps(dtype, activation):
    """Of a part of a wider array's channels, with and without rows enough to keep panels anyway."""
    relu = (activation, ()) if activation else (None, ())
    for c, oc, size in product((3, 70), (5, 80), ((7, 7), (1, 5), (33, 17), (16, 24))):
        x = reals(2, 2 * c + 1, *size, dtype=dtype)[:, c:-1]
        scale, shift, w, b = (reals(*s, dtype=dtype) for s in ((c,), (c,), (oc, c, 1, 1), (oc,)))
        scaled, expected, y = np.empty((2, c, *size), dtype), *np.empty((2, 2, oc, *size), dtype)
        for isa, threads in product(fc.isas(), (1, 3)):
            with fc.using(isa=isa, threads=threads):
                first = conv(x, scale.reshape(-1, 1, 1, 1), shift, scaled, padding=0, groups=c,
                             activation=activation)  # fmt: skip
                problem, *_ = _arguments.convolution(
                    "conv2d", 2, False, x, w, b, 1, 0, 0, 1, 1, None, "relu", None, None, None,
                    allocate=False,
                )  # fmt: skip
                begun = problem._replace(prologue=relu)
                for packed in (None, {}):
                    y[:] = np.nan
                    alone = _core.conv_step(problem, scaled, w, b, expected, packed)
                    _core.Program([first, alone], ()).run(())
                    step = _core.conv_step(begun, x, w, b, y, packed, None, scale, shift)
                    _core.Program([step], ()).run(())
                    assert_same_bits(
                        y, expected, f"{c} to {oc} at {size}, {isa}, {threads} threads"
                    )


def test_a_scale_may_lie_in_a_room():
    w, shift, room = reals(4, 3, 1, 1), reals(3), np.empty(3, np.float32)
    x, y = np.empty((1, 3, 5, 7), np.float32), np.empty((1, 4, 5, 7), np.float32)
    problem, *_ = _arguments.convolution(
        "conv2d", 2, False, x, w, None, 1, 0, 0, 1, 1, None, None, None, None, None, allocate=False
    )
    problem = problem._replace(prologue=(None, ()))
    program = _core.Program(
        [_core.conv_step(problem, x, w, None, y, {}, None, room, shift)], (x, room, y)
    )
    for _ in range(2):
        image, scale, result = reals(*x.shape), reals(3), np.empty_like(y)
        program.run((image, scale, result))
        scaled = fc.conv2d(image, scale.reshape(-1, 1, 1, 1), shift, groups=3)
        assert_same_bits(result, fc.conv2d(scaled, w))


class Net:
    """A few layers as a program, and as calls."""

    def __init__(self, dtype, prepared=True):
        self.dtype = np.dtype(dtype)
        self.w = [reals(*s, dtype=dtype) for s in ((9, 5, 3, 3), (9, 1, 3, 3), (9, 9, 1, 1))]
        self.b = reals(9, dtype=dtype)
        self.packed = [{} if prepared else None for _ in self.w]
        self.x, self.y = np.empty((2, 5, 17, 23), dtype), np.empty((2, 27, 9, 12), dtype)
        self.arena = np.empty(4 * 9 * 2 * 17 * 23 * self.dtype.itemsize, np.uint8)
        self.program = _core.Program(self.steps(), (self.arena, self.x, self.y))

    def at(self, number, shape):
        """Room number of the arena."""
        room = self.arena.view(self.dtype).reshape(4, -1)[number]
        return room[: int(np.prod(shape))].reshape(shape)

    def steps(self):
        image, small = (2, 9, 17, 23), (2, 9, 9, 12)
        a, b, c = (self.at(n, image) for n in range(3))
        d = self.at(3, small)
        return [
            conv(self.x, self.w[0], self.b, a, self.packed[0], activation="relu"),
            conv(a, self.w[1], None, b, self.packed[1], groups=9),
            conv(b, self.w[2], None, c, self.packed[2], residual=a, padding=0, activation="silu"),
            _core.map_step("relu", (), c, b, a),
            _core.map_step("elu", (0.5,), b, a, c, True),
            pool(a, d),
            _core.map_step(None, (), d, self.y[:, :9]),
            _core.map_step(None, (), d, self.y[:, 9:18], d),
            _core.map_step("sigmoid", (), self.y[:, 9:18], self.y[:, 18:]),
        ]

    def calls(self, x):
        a = fc.conv2d(x, self.w[0], self.b, padding=1, activation="relu")
        b = fc.conv2d(a, self.w[1], padding=1, groups=9)
        c = fc.silu(fc.conv2d(b, self.w[2]) + a)
        b = fc.relu(c + a)
        d = fc.max_pool2d(fc.elu(b, 0.5) + c, 3, 2, 1)
        return np.concatenate([d, d + d, fc.sigmoid(d + d)], 1)

    def __call__(self, x):
        y = np.empty_like(self.y)
        room = _memory.lease(self.arena.nbytes)
        try:
            self.program.run((room, x, y))
        finally:
            _memory.give_back(room)
        return y


@every_dtype
@pytest.mark.parametrize("prepared", (False, True))
def test_a_program_gives_the_bits_of_single_calls(dtype, prepared):
    for isa in fc.isas():
        for threads in (1, 3):
            with fc.using(isa=isa, threads=threads):
                net = Net(dtype, prepared)
                for _ in range(3):
                    x = reals(2, 5, 17, 23, dtype=dtype)
                    assert_same_bits(net(x), net.calls(x), (isa, threads))


@every_dtype
def test_eight_threads_run_one_program_at_once(dtype):
    with fc.using(threads=2):
        net = Net(dtype)
    start = threading.Barrier(8)

    def work(seed):
        x = np.random.default_rng(seed).standard_normal((2, 5, 17, 23)).astype(dtype)
        want = net.calls(x)
        start.wait()
        for _ in range(40):
            assert_same_bits(net(x), want)

    with ThreadPoolExecutor(8) as several:
        list(several.map(work, range(8)))


def test_the_arrays_it_was_made_with_may_die_and_those_in_no_room_stay():
    x, y, w = reals(1, 3, 9, 9), np.empty((1, 3, 9, 9), np.float32), reals(3, 3, 3, 3)
    want = fc.conv2d(x, w, padding=1)
    added = want.copy()
    program = _core.Program(
        [conv(x, w, None, y), _core.map_step(None, (), y, y, added)], (x.copy(), y)
    )
    image = x.copy()
    del x, y, added
    for _ in range(3):
        out = np.empty((1, 3, 9, 9), np.float32)
        program.run((image, out))
        assert_same_bits(out, want + want)


def test_wrong_rooms_are_refused():
    net = Net(np.float32)
    x, y = net.x, net.y
    with pytest.raises(SystemError, match="3 rooms was given 2"):
        net.program.run((net.arena, x))
    with pytest.raises(SystemError, match="too small"):
        net.program.run((net.arena[:-1], x, y))
    frozen = y.copy()
    frozen.flags.writeable = False
    x.flags.writeable = False
    net.program.run((net.arena, x, y))
    with pytest.raises((BufferError, ValueError)):
        net.program.run((net.arena, x, frozen))
    with pytest.raises((BufferError, ValueError)):
        net.program.run((net.arena, np.asfortranarray(x), y))
    with pytest.raises(ValueError, match="at most 64 rooms"):
        _core.Program([], (x,) * 65)
    _core.Program([], ()).run(())


def test_the_workspace_is_the_largest_of_the_steps(monkeypatch):
    fc.free_memory()
    asked = []

    def allocate(shape, dtype):
        asked.append(shape)
        return np.empty(shape, dtype)

    net = Net(np.float32)
    plans = [step.plan for step in net.steps()]
    most = max(plan.figures()["workspace_bytes"] for plan in plans)
    assert net.program.workspace_bytes == most > 0
    monkeypatch.setattr(_memory, "_allocate", allocate)
    fc.free_memory()
    net.program.run((net.arena, net.x, net.y))
    assert asked == [most]
    fc.free_memory()


def test_a_program_is_interrupted_and_runs_again():
    assert "interrupted, right" in run_script(
        """
import signal, time
import numpy as np
import fastconv as fc
from fastconv import _core
x = np.ones((1 << 22,), np.float32)
y = np.empty_like(x)
steps = [_core.map_step("gelu", (), x, y) for _ in range(1000)]
program = _core.Program(steps, (x, y))
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, 0.2)
start = time.monotonic()
try:
    program.run((x, y))
except KeyboardInterrupt:
    taken = time.monotonic() - start
    assert taken < 2, taken
    print("interrupted", end=", ")
y[:] = 0
_core.Program(steps[:2], (x, y)).run((x, y))
print("right" if (y == fc.gelu(x)).all() else "wrong")
"""
    )


@pytest.mark.parametrize("threads", (1, 2, 5))
def test_a_program_goes_on_where_time_was_up(threads):
    """Of 0.2 s and more: its threads stop together every 50 ms, in the middle of a step."""
    x, w = reals(1, 64, 160, 160), reals(64, 64, 3, 3) / 24
    rooms = [x, *(np.empty_like(x) for _ in range(3))]
    with fc.using(threads=threads):
        steps = [conv(rooms[i % 3], w, None, rooms[i % 3 + 1]) for i in range(3)] * 6
        _core.Program(steps, tuple(rooms)).run(tuple(rooms))
    for before, after in zip(rooms, rooms[1:], strict=False):
        assert_same_bits(after, fc.conv2d(before, w, padding=1))


SHAPE = (2, 6, 5, 7)


@every_dtype
def test_a_map_takes_evenly_spaced_pieces(dtype):
    x, r = reals(*SHAPE, dtype=dtype), reals(*SHAPE, dtype=dtype)

    def plain():
        return np.zeros(SHAPE, dtype)

    for form in (
        lambda: np.zeros((2, 9, 5, 7), dtype)[:, 2:8],
        lambda: np.zeros((2, 6, 5, 9), dtype)[..., 1:8],
        lambda: plain()[::-1],
    ):
        for of_x, of_r, of_y in product((plain, form), repeat=3):
            a, b, y = of_x(), of_r(), of_y()
            a[...], b[...] = x, r
            for step, want in (
                (_core.map_step(None, (), a, y), x),
                (_core.map_step("relu", (), a, y, b), fc.relu(x + r)),
                (_core.map_step("relu", (), a, y, b, True), fc.relu(x) + r),
            ):
                y[...] = 7
                _core.Program([step], ()).run(())
                assert_same_bits(y, want)
    for shape in ((3,), (1, 1), (5, 4097), (1, 9000), ()):
        x, y = reals(*shape, dtype=dtype), np.empty(shape, dtype)
        _core.Program([_core.map_step("silu", (), x, y, x)], ()).run(())
        assert_same_bits(y, fc.silu(np.asarray(x + x)))
    for odd in (np.zeros((4, 6, 10, 7), dtype)[::2, :, ::2], np.zeros((7, 5, 6, 2), dtype).T):
        with pytest.raises(ValueError, match="evenly"):
            _core.map_step(None, (), odd, np.empty(odd.shape, dtype))
    with pytest.raises(SystemError, match="one shape"):
        _core.map_step(None, (), np.empty((2, 3), dtype), np.empty((3, 2), dtype))
