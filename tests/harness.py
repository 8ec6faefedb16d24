"""Builds harness.c with the library's own objects, for this machine and others, and runs it.

The flags are setup.py's, and so are the objects where it left fresh ones. What is compiled here is
kept in build/harness under the hash of all it is made of, so only the first run compiles. What is
missing on a machine is an `Unavailable`, which `program` turns into a skipped test with the reason.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cases import Case
from fastconv import _core

ROOT = Path(__file__).parents[1]
BUILDS = ROOT / "build" / "harness"
NATIVE = platform.machine()


class Machine(NamedTuple):
    """Whose code it is, who compiles it, who runs it."""

    architecture: str
    compiler: tuple[str, ...]
    runner: tuple[str, ...]


MACHINES = {
    "native": Machine(NATIVE, ("cc",), ()),
    # no AVX: the oldest processor that NumPy runs on
    "nehalem": Machine("x86_64", ("cc",), ("qemu-x86_64", "-cpu", "Nehalem")),
    "haswell": Machine("x86_64", ("cc",), ("qemu-x86_64", "-cpu", "Haswell")),
    "aarch64": Machine("aarch64", ("aarch64-linux-gnu-gcc", "-static"), ("qemu-aarch64",)),
}
PACKAGES = {
    "cc": "gcc", "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu", "qemu-x86_64": "qemu-user",
    "qemu-aarch64": "qemu-user",
}  # fmt: skip


class Unavailable(Exception):
    """This machine lacks what the program needs; the message says what."""


def _setup():
    """setup.py as a module: it builds only when it is run."""
    try:
        spec = importlib.util.spec_from_file_location("fastconv_setup", ROOT / "setup.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise Unavailable(f"setup.py, which has the compiler flags, needs {error.name}") from error
    return module


def _compile(command: list[str], target: Path):
    """Runs a compiler, unless it was: into a name of its own, which is put in place when whole."""
    if target.exists():
        return
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=target.suffix)
    os.close(handle)
    done = subprocess.run([*command, "-o", temporary], capture_output=True, text=True, check=False)
    if done.returncode:
        Path(temporary).unlink()
        pytest.fail(f"{' '.join(command)}\n{done.stderr}")
    assert "-c" not in command or not done.stderr, done.stderr  # a warning
    os.replace(temporary, target)


@cache
def build(machine: Machine) -> Path:
    """The harness's program for a machine."""
    for tool in (machine.compiler[0], *machine.runner[:1]):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not installed (Debian package {PACKAGES[tool]})")
    setup = _setup()
    openmp = ["-fopenmp"] if _core.openmp() else []
    jobs = list(setup.objects(machine.architecture))
    jobs.append((ROOT / "tests" / "harness.c", jobs[0][1], "harness"))
    sources = sorted(path for path in setup.SRC.rglob("*.*") if path.is_file())
    everything = hashlib.sha256(repr((machine.compiler, openmp, jobs)).encode())
    for path in (*sources, ROOT / "tests" / "harness.c"):
        everything.update(path.read_bytes())
    folder = BUILDS / machine.architecture / everything.hexdigest()[:16]
    program = folder / "harness"
    with _alone(folder.parent):
        if program.exists():
            return program
        _forget_older_builds(folder)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = _made_by_setup(setup) if machine.architecture == NATIVE else {}
            commands = [
                ([*machine.compiler, *openmp, *flags, "-c", str(source)], folder / f"{name}.o")
                for source, flags, name in jobs
                if name not in made
            ]
            list(pool.map(lambda job: _compile(*job), commands))
        objects = [str(made.get(name, folder / f"{name}.o")) for _, _, name in jobs]
        _compile([*machine.compiler, *openmp, *objects, "-lm"], program)
        program.chmod(0o755)
    return program


def _made_by_setup(setup) -> dict[str, Path]:
    """The objects, by name, that setup.py left behind and no source is newer than."""
    if not (setup.OBJECTS / "compiler").exists():  # none, or not all are of one compiler
        return {}
    sources = [*setup.SRC.rglob("*.*"), ROOT / "setup.py"]
    newest = max(path.stat().st_mtime for path in sources)
    objects = setup.OBJECTS.glob("*.o")
    return {path.stem: path for path in objects if path.stat().st_mtime > newest}


@contextmanager
def _alone(folder: Path):
    """Holds off other processes, which then find what this one has built."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_older_builds(folder: Path):
    for path in folder.parent.iterdir():
        shutil.rmtree(path, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def program(name: str) -> list[str]:
    """The command that runs the harness on a machine; skips the test where that is not possible."""
    machine = MACHINES[name]
    try:
        if machine.architecture == NATIVE or machine.compiler[0] != "cc":
            return [*machine.runner, str(build(machine))]
        raise Unavailable(f"this machine's cc does not compile for {machine.architecture}")
    except Unavailable as why:
        pytest.skip(str(why))


def run(name: str, lines: Iterable[str]) -> list[str]:
    """The harness's answers on a machine, a line for a line."""
    lines = list(lines)
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        program(name), input="\n".join(lines) + "\n", env=environment, timeout=600,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    answers = done.stdout.splitlines()
    if done.returncode or len(answers) != len(lines):
        last = lines[min(len(answers), len(lines) - 1)]
        pytest.fail(f"the harness on {name} ended with {done.returncode} at: {last}\n{done.stderr}")
    return answers


def conv_line(
    case: Case,
    dtype,
    isa: str,
    algorithm: str,
    threads: int = 1,
    *,
    packed: bool = False,
    hurried: bool = False,
    control: int = 0,
    low: int = -8,
    high: int = 0,
    activation: int = 0,
    residual: int = 0,
    op: str = "conv",
) -> str:
    """A convolution as the harness reads it; see harness.c."""
    flags = (case.transposed, case.last, case.bias, activation, residual)
    counts = (case.batch, case.ic, case.oc, case.groups)
    axes = [
        (*[neutral] * (3 - case.dims), *values)
        for values, neutral in (
            (case.size, 1), (case.kernel, 1), (case.stride, 1), (case.dilation, 1),
            (case.before, 0), (case.out_size, 1),
        )
    ]  # fmt: skip
    numbers = [int(n) for group in (flags, counts, *axes) for n in group]
    how = (isa, algorithm, threads, int(packed), int(hurried), control, low, high, case.seed)
    return " ".join(map(str, (_type(dtype), *how, op, *numbers)))


def _type(dtype) -> int:
    return {4: 0, 8: 1}[np.dtype(dtype).itemsize]


def chain_line(case: Case, dtype, **options) -> str:
    """The same convolution as scalar chains of fma."""
    return conv_line(case, dtype, "-", "chain", **options)


def parts_line(case: Case, isa: str, threads: int) -> str:
    """How many outputs each part of a prepared convolution in float32 writes."""
    return conv_line(case, np.float32, isa, "auto", threads, packed=True, op="parts")


def bits(answer: str) -> str:
    """The hexadecimal words of an answer."""
    head, _, words = answer.partition(":")
    if not head.startswith("ok "):
        raise ValueError(answer)
    return words


def values(answer: str, dtype) -> np.ndarray:
    """An answer as numbers, flat."""
    word = {4: np.uint32, 8: np.uint64}[np.dtype(dtype).itemsize]
    nan = f"{int(np.array(np.nan, dtype).view(word)):x}"
    return np.array([int(w if w != "nan" else nan, 16) for w in bits(answer).split()], word).view(
        dtype
    )


def python(name: str) -> list[str]:
    """The command that runs this Python on a machine."""
    machine = MACHINES[name]
    if machine.architecture != NATIVE:
        pytest.skip(f"this Python is no program of {machine.architecture}")
    if machine.runner and shutil.which(machine.runner[0]) is None:
        tool = machine.runner[0]
        pytest.skip(f"{tool} is not installed (Debian package {PACKAGES[tool]})")
    return [*machine.runner, sys.executable]
