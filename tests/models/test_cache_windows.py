"""Which columns a cached pass computes: from the blocks and the plan's steps alone."""

import pytest

from mdm_schedules.models import Pass
from mdm_schedules.models.cache import CacheSettings, Windows


def windows(settings, passes):
    asked = Windows(settings)
    return [
        (window.start, window.stop, window.keys, window.full)
        for window in (asked.next(Pass(*where)) for where in passes)
    ]


def passes(*steps, prompt=10, block=4, blocks=3):
    """The given steps in each block; the first one begins with the prompt."""
    length = prompt + block * blocks
    return [
        (prompt + block * i if i else 0, prompt + block * (i + 1), step, length, i)
        for i in range(blocks)
        for step in steps
    ]


def test_an_exact_cache_computes_the_last_block_with_the_first_pass_of_the_next():
    settings = CacheSettings("exact", 10, block_length=4)
    assert windows(settings, passes(0, 1)) == [
        (0, 14, 14, True),
        (10, 14, 14, False),
        (10, 18, 18, False),
        (14, 18, 18, False),
        (14, 22, 22, False),
        (18, 22, 22, False),
    ]


def test_only_a_window_of_more_than_one_block_needs_a_mask():
    for shift in (0, 1):
        asked = Windows(CacheSettings("exact", 10, shift=shift, block_length=4))
        one = [asked.next(Pass(*where)).one_block for where in passes(0, 1, blocks=2)]
        assert one == [False, not shift, False, not shift]


@pytest.mark.parametrize("mode", ["prefix", "dual"])
def test_an_approximate_cache_is_refreshed_by_the_step_of_the_plan(mode):
    stop = 14 if mode == "dual" else 22
    settings = CacheSettings(mode, 10, refresh=2)
    found = windows(settings, passes(0, 1, 2, 3, 5, blocks=3))[:5]
    full, part = (0, 22, 22, True), (10, stop, 22, False)
    assert found == [full, part, full, part, full]
    assert [full] * 15 == windows(CacheSettings(mode, 10, refresh=1), passes(0, 1, 2, 3, 5))


def test_blocks_that_are_not_refreshed_begin_with_the_block_before():
    found = windows(CacheSettings("dual", 10, refresh_blocks=2, shift=1), passes(0, 1))
    assert found == [
        (0, 22, 22, True),
        (9, 14, 22, False),
        (9, 18, 22, False),
        (13, 18, 22, False),
        (0, 22, 22, True),
        (17, 22, 22, False),
    ]


def test_a_step_that_a_batch_skips_changes_no_window():
    settings = CacheSettings("dual", 10, refresh=2)
    some = dict(zip(passes(0, 3, 4), windows(settings, passes(0, 3, 4)), strict=True))
    every = dict(zip(passes(0, 1, 2, 3, 4), windows(settings, passes(0, 1, 2, 3, 4)), strict=True))
    # at step 3 the store is as old as at step 2, which only the larger batch computed
    assert [some[where][3] for where in passes(0, 3, 4)] == [True, True, True] * 3
    assert [every[where][3] for where in passes(0, 3, 4)] == [True, False, True] * 3
