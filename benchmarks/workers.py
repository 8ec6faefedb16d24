"""One process a contender and thread count, kept for the session: it builds, checks out and times.

The parent sends (problem's name, element type, seconds, rounds); the worker answers with the
result at the problem's positions and the seconds of every round, or with why it cannot.
"""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import baselines, peers
from benchmarks.checking import at_positions
from benchmarks.functions import Call, parse
from benchmarks.problems import Problem, arrays
from fastconv import reference

ROOT = Path(__file__).parents[1]
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# A slow contender is not measured more often for being slow.
PATIENCE = 10
# Seconds until the idle threads of the process measured before stop spinning: OpenMP's wait some
# milliseconds for more work, and on as many cores as threads they would halve the next one's speed.
SETTLED = 0.02


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

    def measure(self, *request) -> tuple[np.ndarray, list[float]]:
        """The values at the positions and the times of the rounds. ValueError: it cannot."""
        try:
            pickle.dump(request, self.process.stdin)
            self.process.stdin.flush()
            answer = pickle.load(self.process.stdout)
        except (BrokenPipeError, EOFError):
            raise ValueError(f"cannot: its process ended with {self.process.wait()}") from None
        if isinstance(answer, str):
            raise ValueError(answer)
        return answer

    def close(self) -> None:
        """End the process by ending its input."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


_workers: dict[tuple[str, int], Worker] = {}


def get(contender: str, threads: int) -> Worker:
    """The worker of this contender, started at its first use."""
    key = contender, threads
    if key not in _workers:
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
    return done.stdout.strip() or "?"


def _prepare(contender: str, problem: Problem | Call, threads: int, dtype: str):
    if isinstance(problem, Call):
        if contender == "reference":
            return problem.run(reference, dtype)
        return peers.torch_function(problem, threads, dtype)
    inputs = arrays(problem, dtype)
    if contender in peers.PEERS:
        return peers.PEERS[contender](problem, threads, *inputs)
    return baselines.prepare(contender, problem, *inputs)


def _measure(contender: str, threads: int, name: str, dtype: str, seconds: float, rounds: int):
    problem = parse(name)
    run = _prepare(contender, problem, threads, dtype)
    y = run()
    values = at_positions(problem, np.asarray(y))
    time.sleep(SETTLED)
    run()
    times = []
    spent = 0.0
    while spent < seconds or (len(times) < rounds and spent < PATIENCE * seconds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
        spent += times[-1]
    return values, times


def _serve(contender: str, threads: int) -> None:
    # Libraries print; the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = _measure(contender, threads, *request)
        except Exception as error:  # whatever a library raises is its way to say that it cannot
            line = str(error).strip().partition("\n")[0]
            answer = line if line.startswith("cannot") else f"{type(error).__name__}: {line}"
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
