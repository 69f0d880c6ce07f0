"""Near duplicates and the groups that they form."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imgrec.data.duplicates import groups_of, near_pairs
from imgrec.data.look import THUMBNAIL, perceptual_hashes


def test_near_pairs_are_those_that_all_comparisons_find() -> None:
    """The bands of bits must lose none."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (60, 16, 16, 3)).astype(np.uint8)
    noisy = np.clip(base.astype(int) + rng.integers(-9, 10, base.shape), 0, 255).astype(np.uint8)
    images = np.concatenate([base, noisy])
    thumbnails = np.stack(
        [np.asarray(Image.fromarray(i).convert("L").resize((THUMBNAIL,) * 2)) for i in images]
    ).astype(np.float32)
    hashes = perceptual_hashes(thumbnails)
    digests = np.arange(120, dtype="<u8").view("V8")
    for most_bits in (1, 3, 6):
        pairs, cut_off = near_pairs(
            hashes, np.full(120, 50.0, np.float32), digests, images, most_bits
        )
        every = {
            (i, j)
            for i in range(120)
            for j in range(i + 1, 120)
            if int(hashes[i] ^ hashes[j]).bit_count() <= most_bits and j == i + 60
        }

        assert not cut_off
        assert {tuple(pair) for pair in pairs.tolist()} == every
        assert every or most_bits == 1


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
def test_groups_are_what_pairs_and_digests_connect(values: list[int], data: st.DataObject) -> None:
    """Each is named by its first member, and to be near is passed on."""
    count = len(values)
    places = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(places, places), max_size=10))
    digests = np.array(values, dtype="<u8").view("V8")
    groups = groups_of(digests, np.array(pairs, dtype=np.int64).reshape(-1, 2)).tolist()

    assert all(groups[group] == group <= row for row, group in enumerate(groups))
    for first, second in pairs:
        assert groups[first] == groups[second]
    for first in range(count):
        for second in range(count):
            if values[first] == values[second]:
                assert groups[first] == groups[second]
    parts = len(set(groups))
    assert parts >= len(set(values)) - len(pairs)
