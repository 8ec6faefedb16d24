"""One layer: everyone's call built, compared with the reference, and measured in turns."""

import random
import time
from collections.abc import Collection

from benchmarks import checking, machine, workers
from benchmarks.networks import Network
from benchmarks.ours import OURS
from benchmarks.problems import Layer, Problem
from benchmarks.standings import Entry, Row

# A round lasts so many seconds, or one call. A network's threads need longer to settle on their CPUs
# after the process was stopped: two threads of SqueezeNet took 12.6 ms in rounds of one call, for
# every contender alike, and 9.4 ms in a process left alone.
ROUND, NETWORK_ROUND = 0.004, 0.1
COLD_ROUNDS = 3
# Who needs so many times the best time, and so many seconds, is measured once.
HOPELESS, LONG = 10, 0.05
# The seconds that rounds beyond the third may begin in.
LEAST_ROUNDS = 3
PATIENCE = 1.0


def hold(
    name: str,
    layer: Layer,
    dtype: str,
    threads: int,
    *,
    peers: Collection[str],
    rounds: int,
    cold: bool,
) -> Row:
    """The row of one layer of the set of this name."""
    problem = layer.problem
    team = {each: workers.get(each, threads) for each in [*OURS, *peers]}
    entries = _prepared(team, problem, dtype)
    is_network = isinstance(problem, Network)
    calls = _calls(team, entries, NETWORK_ROUND if is_network else ROUND)
    turns = random.Random(problem.shape)

    def everyone(what: str, times: str, *arguments) -> None:
        for each in turns.sample(list(calls), len(calls)):
            took = _asked(team[each], entries[each], what, *(a[each] for a in arguments))
            if took is not None:
                getattr(entries[each], times).append(took)

    start = time.monotonic()
    for i in range(rounds):
        if i < LEAST_ROUNDS or time.monotonic() < start + PATIENCE:
            everyone("time", "rounds", calls)
    for _ in range(COLD_ROUNDS if cold else 0):
        everyone("cold", "cold")
    limit, floor = machine.limit(problem, dtype, threads)
    return Row(name, problem, layer.count, dtype, threads, limit, floor, entries)


def _prepared(
    team: dict[str, workers.Worker], problem: Problem | Network, dtype: str
) -> dict[str, Entry]:
    """All build at once, for nothing is timed; whoever cannot says why."""
    entries = {name: Entry() for name in team}
    for worker in team.values():
        worker.send("prepare", str(problem), dtype)
    for name, worker in team.items():
        try:
            checking.compare(problem, dtype, worker.receive())
        except checking.OutsideTheBound:
            if name in OURS:
                raise
            entries[name].inexact = True
        except ValueError as error:
            entries[name].why = str(error).removeprefix("cannot: ")
    return entries


def _calls(
    team: dict[str, workers.Worker], entries: dict[str, Entry], seconds: float
) -> dict[str, int]:
    """How many calls make a round, of those with a chance. The others' first time is their last."""
    answers = {
        name: _asked(team[name], entry, "calls", seconds)
        for name, entry in entries.items()
        if not entry.why
    }
    answers = {name: answer for name, answer in answers.items() if answer}
    best = min((seconds for _, seconds in answers.values()), default=0)
    for name, (_, seconds) in answers.items():
        if seconds > max(HOPELESS * best, LONG):
            entries[name].rounds.append(seconds)
    return {name: n for name, (n, _) in answers.items() if not entries[name].rounds}


def _asked(worker: workers.Worker, entry: Entry, *request):
    """The worker's answer, or None where it has failed: the entry says how."""
    if entry.why:
        return None
    try:
        return worker.ask(*request)
    except ValueError as error:
        entry.why = str(error).removeprefix("cannot: ")
        return None
