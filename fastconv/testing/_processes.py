"""Processes of a case's own: a child of a fork, or an interpreter that runs a script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fastconv
from fastconv.testing._run import Violation

TIME_LIMIT = 50  # seconds; only what hangs takes as long


def in_a_child(function: Callable[[], bool], what: str = "the child") -> None:
    """Runs function in a child of a fork, which must return True there, and in time."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(TIME_LIMIT)
            code = 0 if function() else 2
        finally:
            os._exit(code)
    _judge(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), what)


def script(text: str, *, prepare: Callable[[], None] | None = None, **environment: str) -> str:
    """What a script prints in an interpreter of its own; it must end well, and in time.

    prepare is called in the new process before the interpreter starts.
    """
    paths = [str(Path(fastconv.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    settings |= {"PYTHONPATH": os.pathsep.join(paths), **environment}
    try:
        done = subprocess.run(
            [sys.executable, "-c", text], env=settings, preexec_fn=prepare, timeout=TIME_LIMIT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as hangs:
        raise Violation(f"did not end in {TIME_LIMIT} s") from hangs
    _judge(done.returncode, "the interpreter", done.stdout)
    return done.stdout


def _judge(code: int, what: str, said: str = "") -> None:
    if code:
        ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        raise Violation(f"{what} {ended}\n{said}".rstrip())
