"""One process a contender and thread count, kept for the session: it builds, checks out and times.

Between two answers it is stopped, as threads that wait for more work spin: ONNX Runtime's for 55 ms,
OpenMP's for 9 ms here. On as many cores as threads they would halve the next one's speed.

The parent sends the name of one of `Bench`'s methods and its arguments; the worker answers with
what it returns, or with why it cannot.
"""

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import baselines, binding, files, networks, ours, peers
from benchmarks.checking import at_positions
from benchmarks.functions import Call, parse
from benchmarks.networks import Network
from benchmarks.problems import Problem, arrays
from fastconv import reference

ROOT = Path(__file__).parents[1]
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# A slow contender is not measured more often for being slow.
PATIENCE = 10
TRIALS, WAKING = 4, 0.05
STOP, CONTINUE = signal.SIGSTOP, signal.SIGCONT
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Calls in a row, at most; and how many of them one that warms up goes with.
MOST_CALLS = 1 << 14
WARMING = 2
# Bytes, more than the last cache that a core sees of the CPUs we know.
EVICTING = 64 << 20


class Worker:
    """The parent's end."""

    def __init__(self, contender: str, threads: int) -> None:
        # The worker finds the modules that its parent found; the root comes last, as the sources
        # of fastconv lie there beside this package.
        search = {"PYTHONPATH": os.pathsep.join([*map(os.path.abspath, sys.path), str(ROOT)])}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmarks.workers", contender, str(threads)],
            env=os.environ | search | dict.fromkeys(POOLS, str(threads)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def send(self, *request) -> None:
        """The name of a method of Bench, and its arguments. One at a time: then `receive`."""
        self._signal(CONTINUE)
        try:
            pickle.dump(request, self.process.stdin)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # receive says so

    def receive(self):
        """What the method returned. ValueError: it cannot."""
        try:
            answer = pickle.load(self.process.stdout)
        except EOFError:
            raise ValueError(f"cannot: its process ended with {self.process.wait()}") from None
        self._signal(STOP)
        if isinstance(answer, str):
            raise ValueError(answer)
        return answer

    def ask(self, *request):
        """send and receive."""
        self.send(*request)
        return self.receive()

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def close(self) -> None:
        """End the process by ending its input."""
        self._signal(CONTINUE)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


_workers: dict[tuple[str, int], Worker] = {}


def get(contender: str, threads: int) -> Worker:
    """The worker of this contender, started at its first use and when it has died."""
    key = contender, threads
    if key not in _workers or _workers[key].process.poll() is not None:
        _workers[key] = Worker(*key)
    return _workers[key]


def close_all() -> None:
    """End every worker; for the end of the session."""
    for worker in _workers.values():
        worker.close()
    _workers.clear()


def version(contender: str) -> str:
    """What a peer calls its version, asked without importing it into this process."""
    code = f"import {peers.MODULES[contender]} as m; print(m.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip().partition("-")[0] or "?"


def _prepare(
    contender: str, problem: Problem | Network | Call, threads: int, dtype: str, *inputs: np.ndarray
):
    if isinstance(problem, Call):
        if contender == "reference":
            return problem.run(reference, dtype)
        return peers.torch_function(problem, threads, dtype)
    if isinstance(problem, Network):
        ways = files.OURS if isinstance(problem, files.File) else networks.OURS
        if contender in ways:
            return ways[contender](problem, dtype)
        if contender not in peers.READ_ONNX:
            raise ValueError("cannot: networks are compared with what reads ONNX models")
    if contender in ours.OURS:
        return ours.OURS[contender](problem, *inputs)
    if contender in peers.PEERS:
        return peers.PEERS[contender](problem, threads, *inputs)
    return baselines.prepare(contender, problem, *inputs)


def _inputs(problem: Problem | Network | Call, dtype: str) -> tuple:
    if isinstance(problem, Call):
        return ()
    return (problem.image(dtype),) if isinstance(problem, Network) else arrays(problem, dtype)


class Bench:
    """What a worker can be asked for."""

    def __init__(self, contender: str, threads: int) -> None:
        self.contender, self.threads = contender, threads
        self.run = self.evicting = None

    def prepare(self, name: str, dtype: str) -> np.ndarray:
        """Build the call; the values of its result at the problem's positions."""
        self.run = None  # let go of what the last one held
        problem = parse(name)
        self.inputs = _inputs(problem, dtype)  # kept: a library may hold a pointer alone
        self.run = _prepare(self.contender, problem, self.threads, dtype, *self.inputs)
        values = at_positions(problem, np.asarray(self.run()))
        binding.bind_helpers(self.run, self.threads)
        return values

    def calls(self, seconds: float) -> tuple[int, float]:
        """How many take so long, at least one; and the seconds of one."""
        count, took = 1, self._best(1)
        while took < seconds / 4 and count < MOST_CALLS:
            count *= 2
            took = self._best(count)
        return max(1, round(count * seconds / took)), took / count

    def _best(self, calls: int) -> float:
        """Of some trials: Linux may let threads that wake up share a CPU for tens of milliseconds."""
        end = time.perf_counter() + WAKING
        took = self._loop(calls)
        for _ in range(TRIALS):
            if time.perf_counter() < end:
                took = min(took, self._loop(calls))
        return took

    def time(self, calls: int) -> float:
        """Seconds a call, the mean of so many in a row, after some that wake threads and caches."""
        self._loop(1 + calls // WARMING)
        seconds = self._loop(calls) / calls
        return seconds

    def _loop(self, calls: int) -> float:
        run = self.run
        binding.move_caller()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - start

    def cold(self) -> float:
        """Seconds of one call whose weights have left the caches, with its image in them."""
        if self.evicting is None:
            self.evicting = np.zeros(EVICTING, np.uint8)
        self.evicting += 1
        self.inputs[0].max()
        binding.move_caller()
        start = time.perf_counter()
        self.run()
        seconds = time.perf_counter() - start
        return seconds

    def rounds(self, seconds: float, rounds: int) -> list[float]:
        """The seconds of each call, until so many have passed in all."""
        binding.move_caller()
        self.run()
        times: list[float] = []
        spent = 0.0
        while spent < seconds or (len(times) < rounds and spent < PATIENCE * seconds):
            start = time.perf_counter()
            self.run()
            times.append(time.perf_counter() - start)
            spent += times[-1]
        return times


def _end_with_the_parent() -> None:
    """A process that is stopped does not see that its input has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(contender: str, threads: int) -> None:
    _end_with_the_parent()
    # Libraries print; the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    bench = Bench(contender, threads)
    while True:
        try:
            method, *arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = getattr(bench, method)(*arguments)
        except Exception as error:  # whatever a library raises is its way to say that it cannot
            line = str(error).strip().partition("\n")[0]
            answer = line if line.startswith("cannot") else f"{type(error).__name__}: {line}"
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
