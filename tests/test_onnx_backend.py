"""ONNX's own backend tests, all whose models have only operators of ours, and whole networks beside ONNX Runtime."""

import os
from pathlib import Path

import numpy as np
import pytest

import fastconv.onnx as ort

onnx = pytest.importorskip("onnx")
pytest.importorskip("PIL", reason="ONNX's node tests import Pillow")
if os.environ.get("FASTCONV_ISA"):
    pytest.skip("operators do not depend on the ISA", allow_module_level=True)

from onnx import numpy_helper  # noqa: E402
from onnx.backend.test import loader  # noqa: E402

KINDS = ("node", "pytorch-converted", "pytorch-operator", "simple")
# What is not run, by a part of its name or by the error it ends with, and why.
UNSUPPORTED = {
    "has elements of type": "8-bit and smaller floats, 4- and 2-bit integers, bfloat16: NumPy has none",
    "is not a tensor": "sequences and optional values",
    "Dropout": "training: what it drops is random",
    "is of opset": "opsets before 6",
    "operators that are not supported": "operators of other domains",
}
LEAST = 0.97


def cases():
    """(name, model, [(inputs, outputs)], rtol, atol) of every case with operators of ours."""
    for kind in KINDS:
        for case in loader.load_model_tests(kind=kind):
            model = case.model or onnx.load(Path(case.model_dir) / "model.onnx")
            if {node.op_type for node in model.graph.node} <= {*ort.operators()}:
                yield case, model


def data_sets(case):
    if case.data_sets is not None:
        yield from (([*map(array, xs)], [*map(array, ys)]) for xs, ys in case.data_sets)
        return
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        yield tuple(
            [
                array(onnx.load_tensor(folder / f"{what}_{i}.pb"))
                for i in range(len([*folder.glob(f"{what}_*.pb")]))
            ]
            for what in ("input", "output")
        )


def array(value):
    return (
        numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    )


def check(case, model):
    """Types and shapes are equal, values as near as ONNX asks."""
    from fastconv.onnx import backend

    prepared = backend.prepare(model)
    for inputs, outputs in data_sets(case):
        for y, expected in zip(prepared.run(inputs), outputs, strict=True):
            if expected.dtype == object:
                assert y.tolist() == expected.tolist()
                continue
            assert (y.dtype, y.shape) == (expected.dtype, expected.shape)
            np.testing.assert_allclose(y, expected, rtol=case.rtol, atol=case.atol)


@pytest.mark.filterwarnings("ignore")
def test_onnx_s_own_cases(subtests=None):
    passed, left_out, failed = 0, {}, []
    for case, model in cases():
        try:
            check(case, model)
            passed += 1
        except (ort.ModelError, AssertionError, TypeError, ValueError) as error:
            reason = next((why for part, why in UNSUPPORTED.items() if part in str(error)), None)
            if reason and isinstance(error, ort.ModelError):
                left_out.setdefault(reason, []).append(case.name)
            else:
                failed.append(f"{case.name}: {str(error).strip().splitlines()[0]}")
    print(f"{passed} of ONNX's cases pass, {len(failed)} fail")
    for reason, names in left_out.items():
        print(f"{len(names)} left out: {reason}")
    assert passed > 900
    assert passed >= LEAST * (passed + len(failed)), "\n".join(failed)
