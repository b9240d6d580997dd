"""scikit-learn's handwritten digits (UCI, 8 by 8 pixels of 0 to 16), split once and for all."""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import distribution
from typing import Final, NamedTuple

import numpy as np

TRAINING: Final = 1000


class Digits(NamedTuple):
    """Images and what they show."""

    pixels: np.ndarray
    """[n, 64] float32, each from 0 to 16, row by row."""
    labels: np.ndarray
    """[n] int64, 0 to 9."""


def training() -> Digits:
    """The 1,000 images that the reference models learn from."""
    return _split()[0]


def held_out() -> Digits:
    """The 797 images that no model has seen: what a replay sends."""
    return _split()[1]


def _split() -> tuple[Digits, Digits]:
    # The file itself: to import scikit-learn takes a second of computing.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), delimiter=",", dtype=np.float32)
    # Ordered by a hash of the index: mixed (the set comes writer by writer), and always the same.
    rows = rows[sorted(range(len(rows)), key=lambda index: sha256(b"%d" % index).digest())]
    pixels, labels = np.ascontiguousarray(rows[:, :-1]), rows[:, -1].astype(np.int64)
    return Digits(pixels[:TRAINING], labels[:TRAINING]), Digits(pixels[TRAINING:], labels[TRAINING:])
