"""What the compiled library is made of: no code of other machines, nothing that changes arithmetic.

The objects are those that setup.py left behind; where it did not, or binutils are missing, that is
a skipped test.
"""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import fastconv as fc
from fastconv import _core
from helpers import run_script

LIBRARY = Path(_core.__file__)
OBJECTS = sorted(Path(__file__).parents[1].glob("build/temp.*/*.o"))
#: AVX and later encode their instructions with a prefix that disassemblers show as a leading v.
VEX = re.compile(
    r"\tv[a-z0-9]+ |\t(k(mov|or|and|test|shift|unpck|add|not|xor|xnor)[a-z]*) |%[yz]mm"
)
SYSTEM = re.compile(
    r"lib(c|m|pthread|gomp(-\w+)?|omp|dl|rt)\.so|ld-linux|linux-vdso|lib(gcc_s|atomic)"
)


def output(tool: str, *arguments: object) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (Debian package binutils)")
    command = [tool, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions(path: Path) -> str:
    return output("objdump", "-d", "--no-show-raw-insn", path)


def is_kernel(path: Path) -> bool:
    return path.stem.rsplit("_", 1)[0] in _core.isa_rows()


def objects():
    """Those of a build of this machine, all of them."""
    if platform.machine() != "x86_64" or not any(map(is_kernel, OBJECTS)):
        pytest.skip("no objects of a build for x86-64")
    return OBJECTS


def test_code_for_newer_processors_is_in_their_kernels_alone():
    for path in objects():
        kernel = is_kernel(path) and not path.stem.startswith("baseline")
        if not kernel:
            found = VEX.search(instructions(path))
            assert not found, f"{path.name}: {found[0].strip()}"


def test_it_is_found_where_it_belongs():
    for path in objects():
        if path.stem == "avx2_f32":
            assert VEX.search(instructions(path))


def test_kernels_call_no_mathematical_function():
    """They would, for errno's sake, element by element, where -fno-math-errno is taken back by a later flag."""
    for path in filter(is_kernel, objects()):
        called = set(output("nm", "-u", path).split()) - {"U"}
        assert not [name for name in called if re.match(r"(sqrt|fma|pow|exp)f?$", name)], path.name


def test_nothing_that_starts_with_the_library_changes_arithmetic():
    assert not re.search("fast_?math", output("nm", "-a", LIBRARY), re.I)
    started = re.findall(r"<(\w+)>:", output("objdump", "-d", "-j", ".init", LIBRARY))
    assert "set_fast_math" not in started


def test_the_library_is_linked_with_the_system_and_openmp_alone():
    said = output("readelf", "-dlW", LIBRARY)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", said)
    assert all(SYSTEM.match(name) for name in needed), needed
    assert "TEXTREL" not in said
    stack = re.search(r"GNU_STACK.* (RWE|RW) ", said)
    assert stack and stack[1] == "RW", "an executable stack"


CONTROL_WORD = """
import ctypes, mmap
code = {code!r}
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
at = ctypes.addressof(ctypes.c_char.from_buffer(page))
word = ctypes.CFUNCTYPE(ctypes.c_uint32)(at)
"""
#: Functions that return the floating-point control word: MXCSR without the flags of what happened, FPCR.
CODE = {
    # stmxcsr -4(%rsp); mov -4(%rsp), %eax; and $0xffc0, %eax; ret
    "x86_64": bytes.fromhex("0fae5c24fc 8b4424fc 25c0ff0000 c3"),
    # mrs x0, fpcr; ret
    "aarch64": bytes.fromhex("00443bd5 c0035fd6"),
}


@pytest.mark.skipif(platform.machine() not in CODE, reason="the control word is not known here")
def test_the_floating_point_control_word_is_as_before_after_import_and_calls():
    run_script(
        CONTROL_WORD.format(code=CODE[platform.machine()])
        + """
import numpy as np
before = word()
import fastconv as fc
assert word() == before, "changed by the import"
x = np.random.default_rng(1).standard_normal((1, 8, 20, 20)).astype(np.float32)
calls = {
    "conv2d": lambda: fc.conv2d(x, x[:1, :, :3, :3]),
    "conv_transpose2d": lambda: fc.conv_transpose2d(x, np.ones((8, 4, 3, 3), np.float32), None, 2),
    "max_pool2d": lambda: fc.max_pool2d(x, 3),
    "avg_pool2d": lambda: fc.avg_pool2d(x, 3),
    "gelu": lambda: fc.gelu(x),
    "softmax": lambda: fc.softmax(x, 1),
    "interpolate": lambda: fc.interpolate(x, scale_factor=2, mode="bilinear"),
}
for isa in fc.isas():
    for threads in (1, 3):
        with fc.using(isa=isa, threads=threads):
            for name, call in calls.items():
                call()
                assert word() == before, (isa, threads, name)
try:
    fc.conv2d(x, x)
except ValueError:
    pass
assert word() == before, "changed by a call that raises"
"""
    )


@pytest.mark.skipif(platform.machine() != "x86_64", reason="MXCSR is x86's")
def test_denormals_are_kept_after_import():
    tiny = np.float32(1e-40)
    assert tiny * np.float32(0.5) != 0
    assert fc.relu(np.full((1, 1, 8), tiny)).min() == tiny
