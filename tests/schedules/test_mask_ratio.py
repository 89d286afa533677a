"""mask_ratio: the masked share as a function, for code after MaskGIT."""

import math

import numpy as np
import pytest
import torch
from schedule_cases import close, named

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.schedules import Beta, Cosine, Schedule


def parallel_decoding_lengths(noise_schedule, tokens: int, timesteps: int) -> list[int]:  # type: ignore[no-untyped-def]
    """How many tokens stay masked after each step of such code.

    It floors the share, keeps one, and reveals at least one.
    """
    left, lengths = tokens, []
    for step in range(timesteps):
        share = noise_schedule(torch.tensor(1.0 * (step + 1) / timesteps))
        left = max(1, min(left - 1, int((tokens * share).floor())))
        lengths.append(left)
    return lengths


def test_mask_ratio_is_the_noise_schedule_of_maskgits_code() -> None:
    cosine = parallel_decoding_lengths(lambda r: torch.cos(r * math.pi * 0.5), 1024, 18)
    assert parallel_decoding_lengths(Cosine().mask_ratio, 1024, 18) == cosine
    beta = Beta(0.9, 0.3)
    planned = 1024 - beta.plan(1024, 12).cumsum(0)
    given = parallel_decoding_lengths(beta.mask_ratio, 1024, 12)
    assert all(abs(a - int(b)) <= 1 for a, b in zip(given, planned, strict=True))


@named
def test_mask_ratio_takes_what_alpha_takes(schedule: Schedule) -> None:
    assert (schedule.mask_ratio(0.0), schedule.mask_ratio(1.0)) == (1.0, 0.0)
    share = np.linspace(0, 1, 9, dtype=np.float32)
    given = schedule.mask_ratio(share)
    assert (type(given), given.dtype) == (np.ndarray, np.float32)
    np.testing.assert_allclose(given, 1 - schedule.alpha(share.astype(np.float64)), atol=1e-7)
    r = torch.tensor([0.25, 0.5], dtype=torch.float64, requires_grad=True)
    schedule.mask_ratio(r).sum().backward()
    close(-r.grad, schedule.alpha_dot(r.detach()))  # type: ignore[operator]
    with pytest.raises(InvalidValueError, match=r"r must lie in \[0, 1\]"):
        schedule.mask_ratio(1.5)
