"""A table of what a prepared network does: `prepared.summary()`."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from fastconv._graph.plan import Plan, Step
from fastconv._graph.run import Network


class Row(NamedTuple):
    """A step that runs: what it does with all that became part of it, and how."""

    name: str
    does: str
    output_shape: tuple[int, ...] | None
    how: str


class Summary:
    """The steps of a network's plan for some shapes, in the order they run.

    counts: how many steps of each kind were folded, fused, written in place, or are views.
    """

    def __init__(self, name: str, network: Network, shapes: tuple[tuple[int, ...], ...]) -> None:
        plan = network.plan(*shapes)
        self.network, self.input_shapes, self.memory = name, shapes, network.memory
        self.rows = [_row(step) for step in plan.steps]
        self.counts = _counts(plan)

    def __str__(self) -> str:
        head = ("step", "does", "output shape", "how")
        lines = [head, *((r.name, r.does, _shape(r.output_shape), r.how) for r in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        rule = "─" * max(map(len, text))
        title = f"{self.network} prepared for {', '.join(map(_shape, self.input_shapes))}"
        became = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        m = self.memory
        held = f"weights {mega(m.weights)}, buffers {mega(m.buffers)}"
        end = [f"{len(self.rows)} steps" + (became and f"; {became}"), held]
        return "\n".join([title, rule, text[0], rule, *text[1:], rule, *end])

    def __repr__(self) -> str:
        return f"<{self.network}: {len(self.rows)} steps>"


def _row(step: Step) -> Row:
    op = step.op
    parts = [*op.settings.get("begins_with", ()), op.settings.get("op", op.kind)]
    parts += op.settings.get("folded", ())
    parts += op.settings.get("fused", ())
    return Row(op.name, " + ".join(parts), op.shape, step.how)


def _counts(plan: Plan) -> dict[str, int]:
    counts: Counter[Any] = Counter()
    for op in plan.ops.steps:
        for name in op.settings.get("folded", ()):
            counts[f"{name} folded"] += 1
        for name in (*op.settings.get("begins_with", ()), *op.settings.get("fused", ())):
            counts[f"{name} fused"] += 1
        counts["as views"] += op.kind == "view"
        counts["stacks in place"] += op.kind == "concat"
    for step in plan.steps:
        counts["stacks in place"] -= step.op.kind == "concat"
    return {what: count for what, count in counts.items() if count}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "×".join(map(str, shape or ()))


def mega(nbytes: int) -> str:
    """Bytes in words."""
    return f"{nbytes / 1e6:.1f} MB"
