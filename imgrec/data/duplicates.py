"""Pictures that are the same, or nearly."""

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from imgrec.data.images import AnyImages

Numbers = npt.NDArray[np.int64]
HASH_BITS = 64
# Near duplicates must also look alike: correlation of their pixels, and their mean difference.
LEAST_CORRELATION = 0.95
MOST_DIFFERENCE = 16.0  # of 255
# Pictures of one colour have hashes of noise: they are exact duplicates or nothing.
LEAST_DEVIATION = 4.0
# Where more pairs than this may be alike (a camera that never moves), no cut could keep them apart.
MOST_CANDIDATES = 500_000
MOST_COMPARED = 1_000_000_000
BYTES_AT_ONCE = 1 << 26


def groups_of(digests: npt.NDArray[np.void], pairs: Numbers) -> Numbers:
    """For each picture the first one that it is a duplicate of, itself if of none, (N,).

    Args:
        digests: Of the decoded pixels, (N,); equal ones are the same picture.
        pairs: Near duplicates, (P, 2). What is near to the same picture is one group.
    """
    from scipy.sparse import coo_array  # noqa: PLC0415 - a store that is there needs neither
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    _, first, which = np.unique(digests, return_index=True, return_inverse=True)
    same_as = first[which]
    count = len(digests)
    starts = np.concatenate([np.arange(count), pairs[:, 0]])
    ends = np.concatenate([same_as, pairs[:, 1]])
    graph = coo_array((np.ones(len(starts), dtype=bool), (starts, ends)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    _, first, which = np.unique(component, return_index=True, return_inverse=True)
    return first[which].astype(np.int64)


def near_pairs(
    hashes: npt.NDArray[np.uint64],
    deviations: npt.NDArray[np.float32],
    digests: npt.NDArray[np.void],
    images: AnyImages,
    most_bits: int,
) -> tuple[Numbers, bool]:
    """Pairs of pictures that are not the same but look alike, (P, 2), each with the smaller first.

    And whether the search was given up at MOST_CANDIDATES; the pairs until then are given.

    Candidates differ in at most most_bits of their hashes: then they agree in at least one of
    most_bits + 1 bands of bits, so only those that share a band are compared. What the hashes call
    alike must then have alike pixels.

    Args:
        hashes: Perceptual ones, (N,).
        deviations: Of the brightness within each, (N,).
        digests: Of the decoded pixels, (N,); of each kind only the first is looked at.
        images: As stored, (N, H, W, C).
        most_bits: 0 finds nothing.
    """
    none = np.empty((0, 2), dtype=np.int64)
    if not most_bits:
        return none, False
    _, firsts = np.unique(digests, return_index=True)
    rows = np.sort(firsts[deviations[firsts] >= LEAST_DEVIATION])
    near_ones, count, looked_at, cut_off = [none], 0, 0, False
    for pairs in _sharing_a_band(hashes[rows], rows, most_bits + 1):
        near = pairs[_distance(hashes[pairs]) <= most_bits]
        if len(near):
            near_ones.append(near)
        count, looked_at = count + len(near), looked_at + len(pairs)
        if count > MOST_CANDIDATES or looked_at > MOST_COMPARED:
            cut_off = True
            break
    candidates = np.unique(np.concatenate(near_ones), axis=0)[:MOST_CANDIDATES]
    at_once = max(1, BYTES_AT_ONCE // (4 * images[0].size))
    alike = [
        _look_alike(images, candidates[start : start + at_once])
        for start in range(0, len(candidates), at_once)
    ]
    return (candidates[np.concatenate(alike)] if alike else none), cut_off


def _sharing_a_band(hashes: npt.NDArray[np.uint64], rows: Numbers, bands: int) -> Iterator[Numbers]:
    """Pairs of rows whose hashes agree in a band of bits, some at a time."""
    edges = np.linspace(0, HASH_BITS, bands + 1).astype(int)
    for low, high in itertools.pairwise(edges):
        keys = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(keys, kind="stable")
        keys, sorted_rows = keys[order], rows[order]
        # Equal keys lie side by side: first each with the next one, then with the one after, ...
        places, step = np.arange(len(keys)), 1
        while True:
            places = places[places + step < len(keys)]
            places = places[keys[places] == keys[places + step]]
            if not len(places):
                break
            yield np.stack([sorted_rows[places], sorted_rows[places + step]], axis=1)
            step += 1


def _distance(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Bits in which the hashes of each pair (P, 2) differ."""
    return np.bitwise_count(hashes[:, 0] ^ hashes[:, 1])


def _look_alike(images: AnyImages, pairs: Numbers) -> npt.NDArray[np.bool_]:
    first, second = (
        images[pairs[:, side]].reshape(len(pairs), -1).astype(np.float32) for side in (0, 1)
    )
    difference = np.abs(first - second).mean(axis=1)
    first -= first.mean(axis=1, keepdims=True)
    second -= second.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    correlation = (first * second).sum(axis=1) / np.maximum(norms, 1e-6)
    return (correlation >= LEAST_CORRELATION) & (difference <= MOST_DIFFERENCE)
