"""What a call would run, and why, in words and figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import _arguments, _core


@dataclass(frozen=True)
class Explanation:
    """A planned call. ``str()`` of it is the plan in words."""

    op: str
    algorithm: str
    isa: str
    dtype: str
    threads: int
    workspace_bytes: int
    flops: float
    bytes: float
    precision: str = "highest"
    problem: Any = field(default=None, repr=False)
    choices: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.op}: {_problem_in_words(self.problem, self.dtype)}"]
        lines += [f"  {name:<10} {verdict}" for name, verdict in self.choices]
        lines.append(
            f"  runs {self.algorithm} on {self.isa}, {self.threads} thread(s), precision "
            f"{self.precision}, workspace {self.workspace_bytes:,} bytes"
        )
        lines.append(f"  {self.flops / 1e6:,.3f} MFLOP, {self.bytes / 1e6:,.3f} MB moved at least")
        return "\n".join(lines)


def _problem_in_words(problem, dtype: str) -> str:
    space = slice(3 - problem.dims, 3)
    layout = "channels last" if problem.channels_last else "channels first"
    channels = getattr(problem, "channels", None)
    flow = (
        f"{problem.ic} -> {problem.oc} channels, groups {problem.groups}"
        if channels is None
        else f"{channels} channels"
    )
    return (
        f"{dtype}, batch {problem.batch}, {flow}, {layout}, image {problem.size[space]} -> "
        f"{problem.out_size[space]}, kernel {problem.kernel[space]}, stride "
        f"{problem.stride[space]}, dilation {problem.dilation[space]}, pads {_pads(problem)[space]}"
        f"{_epilogue_in_words(problem)}"
    )


def _epilogue_in_words(problem) -> str:
    """What follows the bias: nothing, an activation, a residual."""
    activation, residual = getattr(problem, "activation", None), getattr(problem, "residual", None)
    steps = [activation] if activation else []
    if residual:
        steps.insert(0 if residual == "first" else len(steps), "+ residual")
    return f", then {', '.join(steps)}" if steps else ""


def _pads(problem) -> tuple:
    """(before, after) of each axis, as resolved: after is what the last output reaches beyond the image."""
    if getattr(problem, "transposed", False):
        return problem.pad
    axes = zip(
        problem.size, problem.kernel, problem.stride, problem.dilation, problem.pad,
        problem.out_size, strict=True,
    )  # fmt: skip
    return tuple(
        (before, max(0, (out - 1) * s + d * (k - 1) + 1 - size - before))
        for size, k, s, d, before, out in axes
    )


def _verdicts(plan, taken: str, forced: bool) -> tuple[tuple[str, str], ...]:
    verdicts = []
    for name, cannot, should_not in plan.choices():
        if name == taken:
            verdict = "runs: it was asked for" if forced else "runs: the first that can and should"
        elif cannot:
            verdict = f"cannot: {cannot}"
        elif should_not:
            verdict = f"should not: {should_not}"
        else:
            verdict = "could, but comes later"
        verdicts.append((name, verdict))
    return tuple(verdicts)


def explain(op: Callable | str, *args: Any, **kwargs: Any) -> Explanation:
    """What ``op(*args, **kwargs)`` would run: algorithm and why, pads, type, ISA, threads, memory.

    op: a convolution, ``linear`` or a pooling of this module, or its name; the arguments are those
    of a call. Nothing is computed or allocated. Print the result to read the plan; its attributes
    carry the figures.

    Raises what the call would raise, and ValueError for other operations and for empty results.
    """
    name = op if isinstance(op, str) else getattr(op, "__name__", "?")
    problem, x, *rest = _arguments.judge(op, args, kwargs)
    if 0 in (problem.batch, *problem.out_size, getattr(problem, "oc", 1)):
        raise ValueError(f"explain: {name} has an empty result here, nothing would run")
    isa = _core.isa_rows()[_core.in_force()[0]]
    shared = {"op": name, "isa": isa, "dtype": x.dtype.name, "problem": problem}
    if isinstance(problem, _arguments.ConvProblem):
        plan = _core.conv_plan(problem, x, rest[0])
        figures = plan.figures()
        figures.pop("packed_bytes")
        forced = (problem.algorithm or _core.options.get()[1] or "auto") != "auto"
        choices = _verdicts(plan, figures["algorithm"], forced)
        return Explanation(**shared, **figures, choices=choices)
    if _arguments.float_kind(x.dtype) is None:
        shared["isa"] = "NumPy"
        figures = {"threads": 1, "workspace_bytes": 0, "flops": 0.0, "bytes": float(x.nbytes)}
        return Explanation(**shared, **figures, algorithm="pool")
    indices = bool(kwargs.get("return_indices"))
    return Explanation(**shared, **_core.pool_plan(problem, x, indices).figures(), algorithm="pool")


def workspace_bytes(op: Callable | str, *args: Any, **kwargs: Any) -> int:
    """Bytes of workspace that ``op(*args, **kwargs)`` leases: parts times at most 4 MB, and alignment.

    The result itself, and copies that odd inputs need (byte-swapped, unaligned, mixed types), are apart.
    """
    return explain(op, *args, **kwargs).workspace_bytes
