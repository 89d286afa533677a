"""The inverse CDF by segments at its edges: the largest numbers, weights of zero, long rows."""

import torch

from mdm_schedules.sampling.segments import SEGMENT, inverse_cdf, search

LARGEST = 1 - 2.0**-53  # of the float64 numbers below 1


def test_the_largest_uniform_number_draws_a_token_that_has_weight():
    """Rounding would put u * sum behind the last weight, onto tokens that have none."""
    rows = torch.rand(2000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    uniform = torch.full((len(rows),), LARGEST, dtype=torch.float64)
    for scale in (1e-12, 0.05, 1.0, 37.0, 1e12):
        short = torch.nn.functional.pad(rows * scale, (3, 9))
        long = torch.nn.functional.pad(rows * scale, (SEGMENT - 2, 2 * SEGMENT))
        for weights, last in ((short, 6), (long, SEGMENT + 1)):
            tokens, usable = inverse_cdf(weights, uniform)
            assert usable.all()
            assert (tokens == last).all()


def test_a_number_on_the_edge_of_a_segment_draws_a_token_that_has_weight():
    """The rest of the target inside the second segment may be rounded to less than nothing."""
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, 20_000, dtype=torch.float64, generator=generator)
    weights = torch.zeros(len(first), SEGMENT + 3, dtype=torch.float64)
    weights[:, 0], weights[:, -1] = first, second
    edge = first / (first + second)
    for off in (-1e-16, 0, 1e-16, 2e-16):
        tokens, usable = inverse_cdf(weights, (edge + off).clamp(0, LARGEST))
        assert usable.all()
        assert set(tokens.tolist()) <= {0, SEGMENT + 2}


def test_what_a_search_returns():
    sums = torch.tensor([[4.0, 6.0, 2.0]], dtype=torch.float64).repeat(4, 1)
    inside = torch.tensor([[1.0, 1, 2], [3, 1, 2], [0, 0, 2]], dtype=torch.float64)
    uniform = torch.tensor([0.0, 0.3, 0.76, 0.9], dtype=torch.float64)
    segment, place, share, total = search(sums, uniform, lambda where: inside[where] * 5)
    assert segment.tolist() == [0, 0, 1, 2]
    assert place.tolist() == [0, 2, 2, 2]
    # of the segment's weight, whatever the factor that `inside` has
    torch.testing.assert_close(share, torch.tensor([1 / 4, 1 / 2, 1 / 3, 1], dtype=torch.float64))
    assert total.tolist() == [12] * 4


def test_rows_without_weight_are_named():
    weights = torch.zeros(3, SEGMENT + 2)
    weights[1, 3], weights[2, 4] = 1, torch.nan
    uniform = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
    assert inverse_cdf(weights, uniform)[1].tolist() == [False, True, False]
