"""What the runs have in common: cases by number, worker processes, records, replay.

The main process hands ranges of indices to workers and computes nothing, so a case that kills its
process or never ends is a violation like any other: the worker is replaced, and the run goes on
after it. What was found is merged in the order of the indices, whatever the order of the answers;
so a run that is stopped goes on at the next index, and the number of workers changes nothing.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, NamedTuple

CHUNK = 0.25  # seconds that a range of indices should take: little to repeat, less to talk about
MOST_VIOLATIONS = 20  # then the run is stopped
#: For workers: a thread that waits sleeps, as there are more of them than CPUs; NumPy's matrix
#: products stay on one.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Violation(AssertionError):
    """A case that breaks a promise; the message says which and how."""


class Run(NamedTuple):
    """One kind of test.

    line(index): the case of that number in words, or None where there is none; the same in every
        process and on every machine.
    check(line): computes and compares; returns what it counted ({"calls": 12}), raises Violation.
        Any other exception is a violation too. A case that counts 1 "untested" is not counted.
    """

    line: Callable[[int], str | None]
    check: Callable[[str], dict[str, int]]
    cases: int  # of CI
    full: int  # of a full run
    promise: str  # what a run without violations has shown, for the scorecard
    timeout: float = 60  # seconds; a case that takes longer hangs
    processes: int | None = None  # at most so many workers, where cases load the machine themselves


def load(module: str) -> Run:
    return importlib.import_module(module).RUN


@dataclass
class Tally:
    """What a run found so far."""

    next: int = 0  # the first index that was not done
    cases: int = 0
    seconds: float = 0.0
    counts: Counter = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, found: Tally) -> None:
        self.next = found.next
        self.cases += found.cases
        self.counts.update(found.counts)
        self.violations += found.violations


def done(run: Run, start: int, end: int, at: Callable[[int], None] = lambda _: None) -> Tally:
    """All cases of a range of indices, in this process; `at` is told each before it begins."""
    found = Tally(end)
    for index in range(start, end):
        at(index)
        line = run.line(index)
        if line is None:
            continue
        found.cases += 1
        try:
            counts = Counter(run.check(line))
            found.cases -= counts["untested"]
            found.counts.update(counts)
        except Exception as error:
            found.violations.append(f"{line}\n    {explained(error)}")
    return found


def explained(error: Exception) -> str:
    if isinstance(error, Violation):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"


# Workers ------------------------------------------------------------------------------------------


def work(module: str, pipe: Any, current: Any, slot: int) -> None:
    """A worker's life: a range comes, what was found goes back, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process is asked, and ends the others
    run = load(module)

    def at(index: int) -> None:
        current[slot] = index

    while True:
        try:
            start, end = pipe.recv()
        except EOFError:
            return
        pipe.send(done(run, start, end, at))


class Worker:
    """A process, the range it works on, and since when it has been at its case."""

    def __init__(self, module: str, current: Any, slot: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        arguments = (module, other, current, slot)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        other.close()
        self.current, self.slot = current, slot
        self.range: tuple[int, int] | None = None
        self.began, self.case, self.since = 0.0, -1, 0.0

    def give(self, start: int, end: int) -> None:
        self.range, self.began = (start, end), time.monotonic()
        self.current[self.slot] = self.case = -1
        self.since = self.began
        self.pipe.send((start, end))

    def hangs(self, timeout: float) -> bool:
        """Whether it has been at one case for so long; asked regularly."""
        now, case = time.monotonic(), self.current[self.slot]
        if case != self.case:
            self.case, self.since = case, now
        return now - self.since > timeout

    def end(self, patience: float = 0) -> str:
        """Ends the process, if it does not end by itself; says which."""
        self.process.join(patience)
        code = self.process.exitcode
        self.process.kill()
        self.process.join()
        self.pipe.close()
        if code is None:
            return "did not end"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


class Crew:
    """Workers that go through the indices from `start` on, and what they find, in order."""

    def __init__(self, module: str, run: Run, processes: int, start: int):
        os.environ.update(ENVIRONMENT)  # which spawned processes inherit
        self.module, self.run = module, run
        self.current = multiprocessing.get_context("spawn").RawArray("q", processes)
        self.workers = [Worker(module, self.current, slot) for slot in range(processes)]
        self.next, self.size = start, 1
        self.again: list[tuple[int, int]] = []  # ranges whose worker died
        self.found: dict[int, Tally] = {}  # by the start of their ranges
        self.merged = start

    def tallies(self) -> Iterator[Tally]:
        """What was found in range after range, without end."""
        while True:
            for worker in self.workers:
                if worker.range is None:
                    worker.give(*self._range())
            ready = wait([worker.pipe for worker in self.workers], timeout=1)
            for slot, worker in enumerate(self.workers):
                if worker.pipe in ready:
                    try:
                        self._take(worker)
                    except (EOFError, ConnectionError):
                        self._lost(slot, "the process ", patience=5)
                elif worker.hangs(self.run.timeout):
                    self._lost(slot, f"after {self.run.timeout:g} s the process ")
            while self.merged in self.found:
                tally = self.found.pop(self.merged)
                self.merged = tally.next
                yield tally

    def _range(self) -> tuple[int, int]:
        if self.again:
            return self.again.pop(0)
        start, self.next = self.next, self.next + self.size
        return start, self.next

    def _take(self, worker: Worker) -> None:
        tally = worker.pipe.recv()
        start, end = worker.range
        self.found[start] = tally
        worker.range = None
        took = max(time.monotonic() - worker.began, 1e-3)
        self.size = max(1, min(2 * self.size, int((end - start) * CHUNK / took)))

    def _lost(self, slot: int, what: str, patience: float = 0) -> None:
        """A worker died or hangs at a case: that is a violation, the rest of its range is done again."""
        worker = self.workers[slot]
        (start, end), index = worker.range, max(self.current[slot], worker.range[0])
        message = f"{self.run.line(index)}\n    {what}{worker.end(patience)}"
        self.found[index] = Tally(index + 1, cases=1, violations=[message])
        self.again += [(a, b) for a, b in ((start, index), (index + 1, end)) if a < b]
        self.workers[slot] = Worker(self.module, self.current, slot)

    def dismiss(self) -> None:
        for worker in self.workers:
            worker.end()


# The run ------------------------------------------------------------------------------------------


def perform(
    module: str,
    cases: int,
    tally: Tally,
    processes: int | None = None,
    record: Callable[[Tally], None] = lambda _: None,
    say: Callable[[str], None] = print,
) -> Tally:
    """Goes on with a run until it has so many cases; `record` is called now and then, and at the end."""
    run, name = load(module), module.rpartition(".")[2]
    processes = processes or len(os.sched_getaffinity(0))
    crew = Crew(module, run, min(processes, run.processes or processes), tally.next)
    bar = Progress(name, tally.cases, cases)
    before, began = tally.seconds, time.monotonic()
    recorded = began
    try:
        for found in crew.tallies() if tally.cases < cases else ():
            for violation in found.violations:
                bar.say(f"VIOLATION {name}: {violation}", say)
            tally.add(found)
            now = time.monotonic()
            tally.seconds = before + now - began
            bar.show(tally)
            if now - recorded > 10:
                recorded = now
                record(tally)
            if tally.cases >= cases or len(tally.violations) >= MOST_VIOLATIONS:
                break
    finally:
        crew.dismiss()
        bar.close()
        record(tally)
    return tally


class Progress:
    """A bar where tqdm is installed and somebody looks, else a line a minute."""

    def __init__(self, name: str, done: int, cases: int):
        try:
            from tqdm import tqdm

            self.bar = tqdm(
                initial=done, total=cases, desc=name, unit="case", disable=None, leave=False
            )
        except ImportError:
            self.bar = None
        self.quiet = self.bar is None or self.bar.disable
        self.name, self.cases, self.said = name, cases, time.monotonic()

    def show(self, tally: Tally) -> None:
        if not self.quiet:
            self.bar.update(tally.cases - self.bar.n)
        elif time.monotonic() - self.said > 60:
            self.said = time.monotonic()
            print(f"{self.name}: {tally.cases} of {self.cases}", file=sys.stderr, flush=True)

    def say(self, text: str, say: Callable[[str], None]) -> None:
        if self.quiet:
            say(text)
        else:
            self.bar.write(text)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
