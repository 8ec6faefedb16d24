"""Cases by number: every index another combination of choices."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any


class Combinations:
    """All combinations of choices, numbered so that those of any range are a fair sample.

    choices: for each name what it may be. combinations[i], for i from 0 up to their number, is a
    dictionary of names and values; no two are equal if no choices are.
    """

    def __init__(self, **choices: Sequence):
        self.choices = choices
        self.number = prod(map(len, choices.values()))
        self.bits = max(self.number - 1, 1).bit_length()

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.number:
            raise IndexError(f"there are {self.number} combinations, not {index + 1}")
        index = scattered(index, self.bits)
        while (
            index >= self.number
        ):  # what lies outside leads back inside, to where nobody else comes
            index = scattered(index, self.bits)
        found = {}
        for name, values in self.choices.items():
            index, digit = divmod(index, len(values))
            found[name] = values[digit]
        return found


def scattered(index: int, bits: int) -> int:
    """A permutation of the numbers of so many bits, without visible order.

    Products with an odd number and sums with own high bits can both be undone.
    """
    mask, half = (1 << bits) - 1, bits // 2 + 1
    for odd in (0x9E3779B97F4A7C15F39CC0605CEDC835, 0xBF58476D1CE4E5B994D049BB133111EB):
        index = index * odd & mask
        index ^= index >> half
    return index * 0xC2B2AE3D27D4EB4F165667B19E3779F9 & mask
