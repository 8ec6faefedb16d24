"""A wrong result has no speed: what every contender must return before it is timed."""

import functools

import numpy as np

from benchmarks.files import File
from benchmarks.functions import Call, inputs_of, reference_of
from benchmarks.networks import Network
from benchmarks.problems import DTYPES, Problem, arrays, positions
from fastconv import reference


class OutsideTheBound(AssertionError):
    """The result differs from the reference by more than rounding explains."""


def compare(problem: Problem | Network | Call, dtype: str, values: np.ndarray) -> None:
    """Raise OutsideTheBound unless the values at the problem's positions are right."""
    right, bound = expected(problem, dtype)
    error = np.abs(values.astype(np.longdouble) - right)
    wrong = ~(error <= bound)
    if wrong.any():
        worst = int(np.argmax(np.where(np.isnan(error), np.inf, error - bound)))
        raise OutsideTheBound(
            f"{problem}: {wrong.sum()} of {wrong.size} values are outside the bound; at "
            f"{positions(problem.output_shape)[worst].tolist()} {values[worst]!r} instead of "
            f"{float(right[worst])!r}, which allows {float(bound[worst]):.2e}"
        )


@functools.lru_cache(maxsize=4)
def expected(problem: Problem | Network | Call, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The right values at the problem's positions, and by how much a result may differ."""
    if isinstance(problem, Call):
        return _expected_of_call(problem, dtype)
    if isinstance(problem, File):
        return _expected_of_file(problem, dtype)
    if isinstance(problem, Network):
        return _expected_of_network(problem, dtype)
    inputs = arrays(problem, dtype)
    right = _reference(problem, inputs)
    if "max" in problem.op:
        return right, np.zeros(right.shape)
    magnitudes = _reference(problem, [None if a is None else np.abs(a) for a in inputs])
    return right, rounding(problem.terms, dtype, magnitudes)


def _expected_of_call(call: Call, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The bound is in the largest norm: most ops here are no sums of products."""
    right = reference_of(call.op, dtype)
    values = at_positions(call, right).astype(np.longdouble)
    if not call.terms:
        return values, np.zeros(values.shape)
    magnitudes = [np.abs(a) if isinstance(a, np.ndarray) else a for a in inputs_of(call.op, dtype)]
    other = getattr(reference, call.op)(*magnitudes, **call.options)
    largest = np.full(values.shape, max(np.abs(right).max(), np.abs(other).max()))
    return values, rounding(call.terms, dtype, largest)


def _expected_of_network(network: Network, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """What the network gives as it was built, each of its layers checked elsewhere. No bound on the
    rounding of a hundred layers is of use: a mistake shows in the first digits.
    """
    y = network.model(dtype)(network.image(dtype))
    return _first_digits(at_positions(network, y), dtype)


def _expected_of_file(file: File, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """What ONNX Runtime gives, in a process for this alone."""
    from benchmarks.workers import Worker  # whose module needs this one

    worker = Worker("onnxruntime", 1)
    try:
        return _first_digits(worker.ask("prepare", str(file), dtype), dtype)
    finally:
        worker.close()


def _first_digits(values: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    right = values.astype(np.longdouble)
    digits = np.longdouble(np.finfo(DTYPES[dtype]).eps) ** 0.5
    return right, np.full(right.shape, digits * np.abs(right).max())


def at_positions(problem: Problem | Network | Call, y: np.ndarray) -> np.ndarray:
    """The elements of a result that are compared."""
    if isinstance(problem, Problem) and problem.nhwc:
        y = np.moveaxis(y, -1, 1)
    if y.shape != problem.output_shape:
        raise OutsideTheBound(f"{problem}: the result's shape is {y.shape}")
    return y[tuple(positions(y.shape).T)]


def rounding(terms: int, dtype: str, magnitudes: np.ndarray) -> np.ndarray:
    """What a sum of `terms` products in any order may lose: gamma(n) = n u / (1 - n u), n = terms
    + 2 for the bias and the reference's own rounding (Higham, Accuracy and Stability, section
    3.1), and half a smallest subnormal, at most, wherever a result underflows.
    """
    info = np.finfo(DTYPES[dtype])
    n, u = terms + 2, np.longdouble(info.eps) / 2
    return n * u / (1 - n * u) * magnitudes + n * np.longdouble(info.smallest_subnormal)


def _reference(p: Problem, inputs) -> np.ndarray:
    x, *parameters = inputs
    if p.nhwc:
        x = np.moveaxis(x, -1, 1)
    options = {"positions": positions(p.output_shape), "sum_dtype": np.longdouble}
    y = getattr(reference, p.op)(x, *parameters, *p.arguments, **(options if p.is_conv else {}))
    return (y if p.is_conv else y[tuple(positions(y.shape).T)]).astype(np.longdouble)
