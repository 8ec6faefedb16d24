"""Builds fastconv._core: every C file once, the files of src/isa once per element type with their ISA's flags."""

import os
import platform
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SRC = Path(__file__).parent / "src"
# Not in build_temp, which pip deletes after each `pip install -e .`: tests/harness.py links them too.
OBJECTS = Path(__file__).parent.absolute() / "build" / "objects"
ARCHITECTURES = {"x86_64": "X86", "AMD64": "X86", "aarch64": "ARM", "arm64": "ARM"}
# Ours come last on the command line, so that CFLAGS can neither allow another machine's
# instructions nor let the compiler fuse or reorder arithmetic.
FLAGS = [
    "-std=gnu11",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-fno-fast-math",  # before what it would take back
    "-fno-math-errno",
    "-ffp-contract=off",
]
# Kernels call nothing and throw nothing: tables to unwind them would be 100 KB.
KERNELS = ["-fno-asynchronous-unwind-tables"]
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wvla"]
BASELINE = {"X86": ["-march=x86-64", "-mtune=generic"]}


def flags_for(machine):
    """Flags of every C file on a machine, as platform.machine() names it."""
    return [*FLAGS, *BASELINE.get(ARCHITECTURES.get(machine), [])]


def isa_rows(machine):
    """(name, flags) of the rows of isa.def that a machine's architecture has."""
    rows = re.findall(
        r'^FC_ISA_(X86|ARM|ANY)\((\w+),.*"(.*)"\)$', (SRC / "isa.def").read_text(), re.M
    )
    return [
        (name, flags.split())
        for arch, name, flags in rows
        if arch in ("ANY", ARCHITECTURES.get(machine))
    ]


def objects(machine):
    """(source, flags, name of the object) of everything the library is made of. tests/harness.py builds from it too."""
    common = [f"-I{SRC}", *flags_for(machine)]
    for source in sorted([*SRC.glob("*.c"), *SRC.glob("algos/*.c")]):
        yield source, [*common, *WARNINGS], source.stem
    for name, flags in isa_rows(machine):
        for double in (0, 1):
            extra = [*flags, *KERNELS, *WARNINGS, f"-DFC_DOUBLE={double}"]
            yield SRC / "isa" / f"{name}.c", [*common, *extra], f"{name}_f{64 if double else 32}"


def openmp_flags(compiler):
    """-fopenmp where a program with it compiles and links; FASTCONV_NO_OPENMP and FASTCONV_REQUIRE_OPENMP overrule."""
    required = os.environ.get("FASTCONV_REQUIRE_OPENMP") == "1"
    if os.environ.get("FASTCONV_NO_OPENMP") != "1":
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder) / "probe.c"
            probe.write_text(
                "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
            )
            command = [
                *compiler.compiler_so,
                "-fopenmp",
                str(probe),
                "-o",
                str(Path(folder) / "probe"),
            ]
            done = subprocess.run(
                [word for word in command if word != "-c"], capture_output=True, check=False
            )
        if done.returncode == 0:
            return ["-fopenmp"]
    if required:
        raise SystemExit(
            "fastconv: FASTCONV_REQUIRE_OPENMP=1, but the compiler has no OpenMP (-fopenmp and omp.h)"
        )
    print("fastconv: no OpenMP: building the sequential library", file=sys.stderr)
    return []


class Build(build_ext):
    """Compiles the C files in parallel, each with flags of its own, and links them into the extension."""

    def build_extension(self, ext):
        openmp = openmp_flags(self.compiler)
        compiler = " ".join([*self.compiler.compiler_so, *openmp])
        OBJECTS.mkdir(parents=True, exist_ok=True)
        stamp = OBJECTS / "compiler"
        anew = self.force or not stamp.exists() or stamp.read_text() != compiler
        stamp.unlink(missing_ok=True)  # until all of them are this compiler's
        newest = max(path.stat().st_mtime for path in [*SRC.rglob("*.*"), Path("setup.py")])

        def build(job):
            source, flags, name = job
            target = OBJECTS / f"{name}.o"
            if anew or not target.exists() or target.stat().st_mtime < newest:
                self.spawn(
                    [
                        *self.compiler.compiler_so,
                        *openmp,
                        *flags,
                        "-c",
                        str(source),
                        "-o",
                        str(target),
                    ]
                )
            return str(target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(build, objects(platform.machine())))
        stamp.write_text(compiler)
        ext.depends = ext.extra_objects  # or an old library would count as up to date
        ext.extra_compile_args = [*openmp, *flags_for(platform.machine())]
        ext.extra_link_args = [*openmp, "-Wl,--discard-all"]  # names of static functions: 70 KB
        super().build_extension(ext)


if __name__ == "__main__":
    setup(
        ext_modules=[
            Extension("fastconv._core", ["fastconv/_core.pyx"], include_dirs=["src"], language="c"),
        ],
        cmdclass={"build_ext": Build},
    )
