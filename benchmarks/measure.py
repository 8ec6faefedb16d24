"""One measurement: a contender on a problem, checked, then timed through pytest-benchmark."""

import contextlib
import dataclasses
import functools

import fastconv
from benchmarks import baselines, checking, machine, ours, peers, workers
from benchmarks.functions import Call, parse
from benchmarks.problems import Problem, arrays


@dataclasses.dataclass(frozen=True)
class Case:
    """Who does what, and how; a string tells all, so that a test's id does."""

    problem: Problem | Call
    dtype: str
    threads: int
    contender: str

    def __str__(self) -> str:
        return f"{self.problem}-{self.dtype}-t{self.threads}-{self.contender}"

    @classmethod
    def parse(cls, text: str) -> "Case":
        """The case of a string."""
        name, dtype, threads, contender = text.rsplit("-", 3)
        return cls(parse(name), dtype, int(threads[1:]), contender)

    @property
    def in_worker(self) -> bool:
        return self.contender != "auto" and self.contender not in algorithms()


@dataclasses.dataclass
class Result:
    """What came of a case: seconds, or why there are none.

    `took` is the algorithm that ran; `inexact` says that a peer's values are outside our bound.
    """

    suite: str
    case: Case
    seconds: float | None = None
    why: str = ""
    took: str = ""
    inexact: bool = False

    @property
    def limit(self) -> tuple[str, float]:
        """The roofline: which of the machine's limits is the longer, and its seconds."""
        return machine.limit(self.case.problem, self.case.dtype, self.case.threads)

    def facts(self) -> dict:
        """What the JSON of pytest-benchmark keeps of this beside the times."""
        p, (name, floor) = self.case.problem, self.limit
        case = {f.name: str(getattr(self.case, f.name)) for f in dataclasses.fields(self.case)}
        facts = case | {"suite": self.suite, "algorithm": self.took, "limit": name}
        if self.seconds:
            facts["gflops"] = p.flops / self.seconds / 1e9
            facts["gbytes_per_second"] = p.nbytes(self.case.dtype) / self.seconds / 1e9
            facts["percent_of_limit"] = 100 * floor / self.seconds
        return facts


class Replay:
    """Gives pytest-benchmark the times a worker measured: a call advances its clock by one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.times = iter(())

    def clock(self) -> float:
        return self.now

    def __call__(self) -> None:
        self.now += next(self.times, 0.0)


replay = Replay()


def algorithms() -> list[str]:
    """The convolution algorithms that can be forced."""
    return [name for name in fastconv.algorithms() if name != "auto"]


def contenders(problem: Problem | Call, with_peers: bool) -> list[str]:
    """The columns of the report for this kind of problem."""
    if isinstance(problem, Call):
        return ["auto", "reference", *(["torch"] if with_peers else [])]
    ways = baselines.CONV if problem.is_conv else baselines.POOL
    ours = ["auto", *algorithms()] if problem.is_conv else ["auto"]
    return [*ours, *ways, *(peers.installed() if with_peers else [])]


def run(case: Case, suite: str, benchmark, seconds: float, rounds: int) -> Result:
    """Compare with the reference, then time. A contender that cannot is a result too."""
    result = Result(suite, case)
    try:
        if case.in_worker:
            result.inexact = _run_in_worker(case, benchmark, seconds, rounds)
        else:
            result.took = _run_here(case, benchmark)
    except ValueError as error:
        if "cannot" not in str(error):
            raise
        result.why = str(error)
        return result
    if benchmark.stats is not None:
        result.seconds = benchmark.stats.stats.min
    benchmark.extra_info.update(result.facts())
    return result


def _run_here(case: Case, benchmark) -> str:
    everywhere = case.threads == all_threads()
    with contextlib.nullcontext() if everywhere else fastconv.using(threads=case.threads):
        call, took = _fastconv_call(case)
        values = checking.at_positions(case.problem, call())
        checking.compare(case.problem, case.dtype, values)
        call()
        benchmark(call)
    return took


def _run_in_worker(case: Case, benchmark, seconds: float, rounds: int) -> bool:
    worker = workers.get(case.contender, case.threads)
    inexact = False
    try:
        values = worker.ask("prepare", str(case.problem), case.dtype)
        times = worker.ask("rounds", seconds, rounds)
        checking.compare(case.problem, case.dtype, values)
    except checking.OutsideTheBound:
        # A peer may trade accuracy for speed; the report marks it.
        if case.contender not in peers.PEERS:
            raise
        inexact = True
    except ValueError as error:
        # Whatever a peer raises is its way to say that it cannot.
        if case.contender in peers.PEERS and "cannot" not in str(error):
            raise ValueError(f"cannot: {error}") from None
        raise
    replay.times, replay.now = iter(times), 0.0
    benchmark.pedantic(replay, rounds=len(times))
    return inexact


def _fastconv_call(case: Case):
    """The call to time, and the name of the algorithm that it takes."""
    p = case.problem
    if isinstance(p, Call):
        return p.run(fastconv, case.dtype), ""
    inputs = arrays(p, case.dtype)
    if not p.is_conv:
        return ours.function(p, *inputs), ""
    forced = None if case.contender == "auto" else case.contender
    how = fastconv.explain(getattr(fastconv, p.op), *inputs, *p.arguments, algorithm=forced)
    return ours.function(p, *inputs, algorithm=forced), how.algorithm


@functools.cache
def all_threads() -> int:
    """The threads that fastconv takes by itself."""
    return fastconv.get_num_threads()
