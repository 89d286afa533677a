"""What goes in comes out: tensors, arrays, numbers, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from schedule_cases import grid, named

from mdm_schedules.schedules import (
    Beta,
    Cosine,
    EnergyOptimal,
    Geometric,
    Schedule,
    Tabulated,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


# --- tensors, arrays, numbers


@named
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_keep_shape_dtype_and_device(
    schedule: Schedule, device: str, dtype: torch.dtype
) -> None:
    t = (
        torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
        .to(device, dtype)
        .transpose(0, 2)[::2]
    )
    assert not t.is_contiguous()
    for method in (
        schedule.alpha,
        schedule.alpha_dot,
        schedule.inverse,
        schedule.gamma,
        schedule.loss_weight,
    ):
        out = method(t)
        assert (out.shape, out.dtype, out.device) == (t.shape, dtype, t.device)
        # one rounding only: float64 inside
        assert torch.equal(out.double(), method(t.double()).to(dtype).double())
    for shape in ((), (0,), (2, 0, 3)):
        assert schedule.alpha(torch.zeros(shape, dtype=dtype, device=device)).shape == shape


@named
def test_numbers_lists_and_arrays(schedule: Schedule) -> None:
    right = schedule.alpha(torch.tensor([0.25, 0.75], dtype=torch.float64))
    assert schedule.alpha(0.25) == float(right[0])
    assert type(schedule.alpha(0.25)) is float
    assert type(schedule.alpha(1)) is float
    listed = schedule.alpha([0.25, 0.75])
    assert isinstance(listed, torch.Tensor)
    assert torch.equal(listed, right)
    for dtype in (np.float16, np.float32, np.float64, ">f8"):
        array = np.array([[0.25, 0.75]], dtype=dtype)
        out = schedule.alpha(array)
        assert isinstance(out, np.ndarray)
        assert (out.shape, out.dtype) == (array.shape, array.dtype)
    assert isinstance(schedule.alpha(np.float32(0.25)), np.float32)
    assert schedule.alpha(np.int64(1)) == 1.0
    frozen = np.array([0.25, 0.75])
    frozen.flags.writeable = False
    assert np.array_equal(schedule.alpha(frozen), right.numpy())


@named
def test_gradients_are_the_slopes(schedule: Schedule) -> None:
    for method, slope in (
        (schedule.alpha, schedule.alpha_dot),
        (schedule.gamma, schedule.gamma_dot),
        (schedule.alpha_noise, schedule.alpha_noise_dot),
    ):
        for dtype in (torch.float32, torch.float64):
            leaf = grid(50).to(dtype).requires_grad_(True)
            value = method(leaf)
            assert value.requires_grad
            (3 * value).sum().backward()
            assert leaf.grad is not None
            assert torch.equal(leaf.grad, 3 * slope(leaf.detach()))
            with torch.no_grad():
                assert not method(leaf).requires_grad
    assert not schedule.alpha(grid()).requires_grad


def test_gradcheck() -> None:
    t = grid(20).requires_grad_(True)
    for schedule in (
        Beta(0.9, 0.3),
        Cosine(),
        Geometric(),
        EnergyOptimal(lambda x: (x + x**2) / 2),
    ):
        assert torch.autograd.gradcheck(schedule.alpha, (t,))
        assert torch.autograd.gradcheck(schedule.gamma, (t,))


def test_default_device_and_dtype_do_not_matter() -> None:
    """transformers builds models under `with torch.device("meta")`."""
    with torch.device("meta"):
        built = [EnergyOptimal(lambda t: t), Tabulated([0, 0.3, 1]), Beta(0.9, 0.3)]
        for schedule in built:
            assert schedule.alpha(0.5) > 0
            assert schedule.plan(10, 4).tolist() == schedule.plan(10, 4).tolist()
            assert schedule.gamma_dot(0.0) >= 0
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        assert Beta(0.9, 0.3).alpha([0.3]).dtype == torch.float64
        assert EnergyOptimal(torch.sqrt).alpha_dot(0.0) == pytest.approx(math.pi**2 / 4, rel=1e-5)
    finally:
        torch.set_default_dtype(before)
