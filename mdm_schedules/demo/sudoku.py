"""Sudoku 6x6 (boxes of 2 rows by 3 columns): grids, a held-out split, puzzles and a validity check.

A grid is 36 digits 1..6 in row-major order; 0 is a blank. Relabelling the digits turns each *base
grid* (first box 123/456) into 720 grids, so the 39,168 base grids cover all 28,200,960 grids, each
exactly once.
"""

from functools import cache
from hashlib import blake2b
from itertools import permutations

import numpy as np
import numpy.typing as npt

Grids = npt.NDArray[np.int64]

SPLIT_SALT = b"sudoku-6x6 held-out 1"
HELD_OUT_FRACTION = 0.05

_CELL = np.arange(36)
#: for each of the 18 units (6 rows, 6 columns, 6 boxes) its 6 cells
UNITS: Grids = np.concatenate(
    [
        np.stack([_CELL[unit_of == unit] for unit in range(6)])
        for unit_of in (_CELL // 6, _CELL % 6, _CELL // 12 * 2 + _CELL % 6 // 3)
    ]
)


@cache
def _base_grids() -> Grids:
    rows = np.array(list(permutations(range(6))))
    left = (1 << rows[:, :3]).sum(1)
    # two rows make a valid band exactly when their left halves are complementary: columns then
    # cannot clash
    upper, lower = np.nonzero(left[:, None] + left[None, :] == 63)
    bands = np.concatenate([rows[upper], rows[lower]], axis=1)
    # bit 6 * column + digit for each digit that a band has in a column
    used = np.bitwise_or.reduce(np.int64(1) << (np.arange(12) % 6 * 6 + bands), axis=1)
    grids = []
    for first in np.flatnonzero((bands[:, [0, 1, 2, 6, 7, 8]] == np.arange(6)).all(1)):
        rest = np.flatnonzero(used & used[first] == 0)
        second, third = np.nonzero(used[rest][:, None] & used[rest][None, :] == 0)
        top = np.broadcast_to(bands[first], (len(second), 12))
        grids.append(np.concatenate([top, bands[rest[second]], bands[rest[third]]], axis=1))
    out = np.concatenate(grids) + 1
    out.setflags(write=False)
    return out


def base_grids() -> Grids:
    """Return the 39,168 grids whose first box is 123/456, in lexicographic order.

    The array is read-only and computed once.
    """
    return _base_grids()


@cache
def _held_out_mask() -> npt.NDArray[np.bool_]:
    # A hash of the grid decides, and no random generator: the split then never depends on
    # numpy's streams.
    limit = int(HELD_OUT_FRACTION * 2**64)
    digests = (
        blake2b(grid.tobytes(), digest_size=8, key=SPLIT_SALT)
        for grid in base_grids().astype(np.uint8)
    )
    return np.array([int.from_bytes(digest.digest(), "big") < limit for digest in digests])


def training_base_grids() -> Grids:
    """Return the base grids that are not held out (about 95 %)."""
    return base_grids()[~_held_out_mask()]


def relabel(grids: Grids, rng: np.random.Generator) -> Grids:
    """Rename the digits of each grid by its own uniformly random permutation."""
    names = np.argsort(rng.random((len(grids), 6)), axis=1) + 1
    return np.take_along_axis(names, grids - 1, axis=1)


def held_out_grids(n: int, seed: int) -> Grids:
    """Draw ``n`` grids from the held-out base grids, with random digit names.

    None of them is a training grid.
    """
    rng = np.random.default_rng(seed)
    pool = base_grids()[_held_out_mask()]
    return relabel(pool[rng.integers(len(pool), size=n)], rng)


def puzzles(n: int, clues: int, seed: int) -> tuple[Grids, Grids]:
    """Return ``n`` held-out grids with only ``clues`` random cells kept, and the grids themselves.

    A puzzle may have several solutions, so judge an answer with :func:`is_valid` and by its clues,
    not by equality with the grid.
    """
    if not 0 <= clues <= 36:
        raise ValueError(f"clues must be between 0 and 36, not {clues}")
    solutions = held_out_grids(n, seed)
    order = np.argsort(np.random.default_rng([seed, clues]).random((n, 36)), axis=1)
    keep = np.argsort(order, axis=1) < clues
    return np.where(keep, solutions, 0), solutions


def is_valid(grids: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return for grids ``[B, 36]`` whether every row, column and box holds each of 1..6."""
    found: npt.NDArray[np.bool_] = (
        np.sort(np.asarray(grids)[:, UNITS], axis=-1) == np.arange(1, 7)
    ).all((1, 2))
    return found
