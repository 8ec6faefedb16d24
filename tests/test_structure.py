"""The house keeps its shape: who may include and import whom, and that nothing added is half there.

Arrows go down only. What is listed is allowed; a new file needs a row here, which is the moment to
ask where it belongs.
"""

import ast
import importlib
import inspect
import re
import sys
import tomllib
from pathlib import Path

import pytest

import fastconv
from fastconv import _core, functional, reference

ROOT = Path(__file__).parents[1]
SRC, PACKAGE = ROOT / "src", ROOT / "fastconv"

# --- C ------------------------------------------------------------------------------------------

# file: what of ours it may include. {} is the file's own name without its ending.
INCLUDES = {
    "fastconv.h": [],
    "kernels/kernels.h": ["fastconv.h"],
    "kernels/type.h": [],
    "kernels/kernels.inc": ["kernels/kernels.h", "kernels/*.inc"],
    "kernels/*.inc": [],
    "vec/*.h": [],
    "isa/*.c": ["kernels/type.h", "vec/{}.h", "kernels/kernels.inc"],
    "dispatch.h": ["kernels/kernels.h"],
    "dispatch.c": ["dispatch.h", "isa.def"],
    "algos/algos.h": ["fastconv.h", "kernels/kernels.h", "conv_algos.def"],
    "algos/*.c": ["algos/algos.h"],
    "conv.c": ["algos/algos.h", "dispatch.h", "conv_algos.def"],
    "pool.c": ["dispatch.h"],
    "map.c": ["dispatch.h"],
    "norm.c": ["dispatch.h"],
    "parallel.c": ["kernels/kernels.h", "dispatch.h"],
}
# header of the system: who may include it, besides those that everyone may
FREE_HEADERS = {"stddef.h", "stdint.h", "string.h", "math.h", "limits.h", "assert.h"}
HEADERS = {
    "immintrin.h": "vec/*.h",
    "arm_neon.h": "vec/*.h",
    "omp.h": "parallel.c",
    "pthread.h": "parallel.c",
    "stdatomic.h": "parallel.c",
    "sys/mman.h": "parallel.c",
    "time.h": "parallel.c",
}
# what is written in one place only, or nowhere
WORDS = {
    r"\b(m|c|re|aligned_)alloc\b|\bfree\b|\balloca\b|\bposix_memalign\b": None,
    r"\b(f|s|sn|v)?printf\b|\bputs\b|\bperror\b|\bstderr\b": None,
    r"\bgetenv\b|\babort\b|\b_?exit\b|\blongjmp\b|\bsignal\b": None,
    r"\bomp_\w+|#pragma omp|\b_OPENMP\b|\bpthread_\w+": "parallel.c",
    r"\b_mm\w*|\b__m\d+\w*|\bv\w+q_[fsu]\d+|\bfloat(32x4|64x2)_t": "vec/*.h",
    r"\b__asm__\b|\basm\b": "parallel.c vec/avx512.h",
}


def sources():
    return sorted(path for path in SRC.rglob("*") if path.suffix in (".c", ".h", ".inc"))


def name_of(path):
    return path.relative_to(SRC).as_posix()


def code_of(path):
    """The text without its comments."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", path.read_text("utf-8"), flags=re.DOTALL)


def row_of(path, table):
    """The most particular row that speaks of a file."""
    rows = [row for row in table if Path(name_of(path)).match(row)]
    assert rows, f"{name_of(path)} has no row in this test's table"
    return min(rows, key=lambda row: "*" in row)


def ours(path):
    for name in re.findall(r'#\s*include\s+"([^"]+)"', code_of(path)):
        beside = (path.parent / name).resolve()
        yield beside if beside.exists() else (SRC / name).resolve()


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_c_files_include_only_what_lies_below_them(path):
    allowed = [row.format(path.stem) for row in INCLUDES[row_of(path, INCLUDES)]]
    for included in ours(path):
        assert included.exists(), included
        assert any(Path(name_of(included)).match(row) for row in allowed), name_of(included)
    for header in re.findall(r"#\s*include\s+<([^>]+)>", code_of(path)):
        if header not in FREE_HEADERS:
            assert Path(name_of(path)).match(HEADERS[header]), header


@pytest.mark.parametrize("words", WORDS)
def test_words_that_belong_to_one_file_stand_nowhere_else(words):
    homes, seen = (WORDS[words] or "").split(), set()
    for path in sources():
        found = re.findall(words, code_of(path))
        if any(Path(name_of(path)).match(home) for home in homes):
            seen.update(found)
        else:
            assert not re.search(words, code_of(path)), name_of(path)
    assert seen or not homes, f"no longer written in {WORDS[words]}"


def test_sizes_and_strides_are_as_wide_as_addresses():
    """-Wconversion finds what is narrowed on the way; this finds what is declared too narrow."""
    sizes = r"batch|[io](c|cg|d|h|w)|size|out_size|bytes|elements|channels|items|[xyw]_\w+"
    narrow = rf"\b(unsigned|int|long|short|u?int(16|32)_t)\s+\**({sizes})\s*[,;=\[)]"
    for path in sources():
        assert not re.search(narrow, code_of(path)), name_of(path)


def test_nothing_allows_the_compiler_to_change_arithmetic():
    loose = r"(?<!no-)fast-math|-Ofast|-funsafe-math|-fassociative-math|-ffinite-math"
    setup = (ROOT / "setup.py").read_text("utf-8")
    assert not re.search(loose, setup)
    assert "-ffp-contract=off" in setup
    header = (SRC / "fastconv.h").read_text("utf-8")
    assert re.search(r"#ifdef __FAST_MATH__\n#error", header)


def rows(name, word):
    return re.findall(rf"^{word}\w*\((\w+)", (SRC / name).read_text("utf-8"), re.M)


def test_every_algorithm_has_its_file_and_every_file_of_one_its_row():
    listed = rows("conv_algos.def", "FC_ALGO")
    assert tuple(listed) == fastconv._core.algorithms()
    defined = {
        name: path.stem
        for path in SRC.glob("algos/*.c")
        for name in re.findall(r"^const fc_algo fc_algo_(\w+) =", code_of(path), re.M)
    }
    assert defined == {name: name for name in listed}


def test_every_isa_has_its_two_files_and_every_file_its_row():
    listed = sorted(rows("isa.def", "FC_ISA_"))
    assert listed == sorted(path.stem for path in SRC.glob("isa/*.c"))
    assert listed == sorted(path.stem for path in SRC.glob("vec/*.h"))
    assert set(fastconv.isas()) <= set(_core.isa_rows()) <= set(listed)
    for path in SRC.glob("isa/*.c"):
        assert re.search(rf"#define FC_ISA_NAME {path.stem}\n", code_of(path))


@pytest.mark.parametrize("path", sorted(SRC.glob("vec/*.h")), ids=name_of)
def test_every_isa_has_every_word_that_the_kernels_use(path):
    used = set()
    for kernel in SRC.glob("kernels/*.inc"):
        used.update(re.findall(r"\b((?:v|m|m2)_\w+)\(", code_of(kernel)))
    defined = set(re.findall(r"^VEC \w+ (\w+)\(", code_of(path), re.M))
    assert used and used <= defined


# --- Python -------------------------------------------------------------------------------------

# module: which of ours it may import; None is the package as its users have it
IMPORTS = {
    "_version": [],
    "_memory": [],
    "reference": [],
    "_core": ["_memory"],
    "_options": ["_core", "_version"],
    "_arguments": ["_memory", "_core"],
    "_numpy_ops": ["_memory", "_core"],
    "_explain": ["_arguments", "_core"],
    "functional": ["_arguments", "_core", "_memory", "_numpy_ops"],
    "_graph": ["_graph", "_arguments", "_core", "_memory", "_numpy_ops"],
    "nn": ["nn", "functional", "_arguments", "_core", "_graph"],
    "checkpoints": [],
    "models": ["models", "nn", "functional", "checkpoints"],
    "onnx": ["onnx", "nn", "functional", "_memory", "_numpy_ops", "_options"],
    "_cli": [],
    "demos": [None, "demos", "models", "nn", "onnx", "checkpoints", "_cli"],
    "commands": [None, "demos", "models", "nn", "onnx", "_cli"],
    "testing": [None, "testing", "reference", "nn", "_arguments", "_cli", "_core", "_memory"],
    "__main__": [None, "commands", "checkpoints", "_cli"],
}
# Imported where it is used, and done without where it is not there.
OPTIONAL = {
    "commands/run.py": {"PIL"},
    "demos/_run.py": {"tqdm"},
    "onnx/backend.py": {"onnx"},
    "testing/_refusals.py": {"_testcapi"},
    "testing/_run.py": {"tqdm"},
}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imports(path):
    """(where from, what) of every import statement, from . made absolute."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join((*above, *filter(None, [node.module])))
            yield from ((start, alias.name) for alias in node.names)


def part_of(start, what):
    """The module of ours that an import names: of the package itself only by its modules."""
    path = start.split(".")[1:] or [what]
    return path[0]


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_modules_import_only_what_lies_below_them(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert own in IMPORTS, f"{own} has no row in this test's table"
    optional = OPTIONAL.get(path.relative_to(PACKAGE).as_posix(), set())
    for start, what in imports(path):
        if start.split(".")[0] == "fastconv":
            assert part_of(start, what) in IMPORTS[own], (start, what)
        else:
            assert start.split(".")[0] in sys.stdlib_module_names | {"numpy"} | optional, start


def test_the_reference_imports_numpy_alone():
    found = {start.split(".")[0] for start, _ in imports(PACKAGE / "reference.py")}
    assert found == {"__future__", "numpy"}


def test_the_door_knows_one_header_and_judges_nothing():
    text = "".join((PACKAGE / f"_core.{end}").read_text("utf-8") for end in ("pxd", "pyx"))
    assert set(re.findall(r'cdef extern from "([^"]+)"', text)) == {"fastconv.h"}
    found = {a or b for a, b in re.findall(r"^from (\S+) c?import|^c?import (\S+)", text, re.M)}
    python = {"contextvars", "cpython.buffer", "cpython.exc", "libc.stdint", "libc.string"}
    assert found <= python | {"."}
    assert re.findall(r"^from \. import (.+)$", text, re.M) == ["_memory"]


def test_the_package_is_listed_whole_and_src_is_no_part_of_it():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    listed = settings["tool"]["setuptools"]["packages"]
    found = [path.parent.relative_to(ROOT) for path in PACKAGE.rglob("__init__.py")]
    assert sorted(listed) == sorted(".".join(path.parts) for path in found)
    assert [re.match(r"\w+", name)[0] for name in settings["project"]["dependencies"]] == ["numpy"]


# --- completeness -------------------------------------------------------------------------------

OPS = functional.__all__
every_op = pytest.mark.parametrize("op", OPS)


def positional(function):
    return [
        (p.name, p.default)
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]


@every_op
def test_every_op_is_public_documented_and_typed(op):
    function = getattr(fastconv, op)
    assert function is getattr(functional, op) and op in fastconv.__all__
    assert inspect.getdoc(function)
    signature = inspect.signature(function)
    assert signature.return_annotation is not signature.empty
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    assert not any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())


@every_op
def test_every_op_has_a_twin_in_the_reference_with_the_same_parameters(op):
    assert positional(getattr(reference, op)) == positional(getattr(functional, op))


@every_op
def test_every_op_has_cases(op):
    """Named in a test of results, conv2d also as conv{dims}d."""
    name = re.sub(r"\dd$", r"(\\d|\\{\\w+\\})d", op)
    apart = {"test_structure.py", "test_bad_input.py", "test_nn.py"}
    texts = [
        p.read_text("utf-8") for p in Path(__file__).parent.glob("*.py") if p.name not in apart
    ]
    assert any(re.search(rf"(?<!\w){name}(?!\w)", text) for text in texts)


@every_op
def test_every_op_has_a_benchmark(op, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    assert op in importlib.import_module("benchmarks.functions").CALLS


def test_every_activation_of_the_engine_is_an_op_and_the_other_way_round():
    alone = {"gelu" if name == "gelu_tanh" else name for name in _core.ACTIVATIONS}
    header = (SRC / "fastconv.h").read_text("utf-8")
    listed = re.findall(r"^    FC_(\w+),", header[header.index("FC_IDENTITY") - 4 :], re.M)
    assert tuple(name.lower() for name in listed[: len(_core.ACTIVATIONS)]) == _core.ACTIVATIONS
    only_in_files = {"clip", "erf"}  # steps of ONNX models, no ops
    assert alone - {"identity"} - only_in_files <= set(OPS)


def test_layers_stay_out_of_the_import_of_the_package_and_can_be_named():
    assert fastconv.nn is importlib.import_module("fastconv.nn")
    assert fastconv.reference is reference
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        fastconv.nonsense  # noqa: B018
