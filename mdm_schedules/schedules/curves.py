"""Curves on [0, 1]: exact ends, limits of slopes, evaluation that keeps type and device."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidTypeError, InvalidValueError

T = TypeVar("T")
Curve = Callable[[torch.Tensor], torch.Tensor]
PLOT_TIMES = torch.linspace(0, 1, 501, dtype=torch.float64, device="cpu")  # of every picture


def exact_ends(t: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value` with 0 where t is 0 and 1 where t is 1, so that rounding never moves an end point."""
    return torch.where(t == 0, 0.0, torch.where(t == 1, 1.0, value.clamp(0.0, 1.0)))


def end_limits(t: torch.Tensor, from_zero: Curve, from_one: Curve) -> torch.Tensor:
    """Slope at an end of [0, 1] from the values next to it.

    The slope is 0, `inf`, or the difference quotient where it settles.

    Args:
        t: gives shape and device, and which end is meant: 0 below one half, 1 above.
        from_zero, from_one: t -> how far the curve is from its value at 0, and at 1.
    """
    limits = []
    for far, end in ((from_zero, 0.0), (from_one, 1.0)):
        steps = torch.tensor([2.0**-12, 2.0**-20], dtype=torch.float64, device=t.device)
        wide, near = (far((end - steps).abs()) / steps).tolist()
        # a power q < 1 of the distance grows by 2**(8 (1 - q)) between the two, one above 1 falls
        limits.append(math.inf if near > 1.05 * wide else 0.0 if 1.05 * near < wide else near)
    return torch.where(t < 0.5, t.new_tensor(limits[0]), t.new_tensor(limits[1]))


def time_before(tau: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The float t < 1 nearest to 1 - tau, and how far off it is: log(tau / (1 - t))."""
    t = (1 - tau).clamp(max=1 - 2.0**-53)
    rest = 1 - t  # exact
    ratio = tau / rest
    return t, torch.where(ratio < 0.5, torch.log(ratio), torch.log1p((tau - rest) / rest))


def apply_curve(curve: Curve, x: T, name: str, slope: Curve | None = None) -> T:
    """Evaluate a float64 curve on numbers in [0, 1].

    The result keeps type, shape, floating dtype and device.

    Args:
        curve: float64 tensor in, float64 tensor of the same shape out.
        x: Python number, numpy array or scalar, list or tensor; integers become float64.
        name: how errors call `x`.
        slope: derivative of the curve; with it the result is differentiable where `x` requires
            grad.

    Raises:
        InvalidValueError: a value outside [0, 1] or NaN.
        InvalidTypeError: `x` is none of the above.
    """
    if isinstance(x, torch.Tensor):
        if x.is_complex() or x.dtype == torch.bool:
            raise InvalidTypeError(
                f"{name} must hold real numbers in [0, 1], got a tensor of dtype {x.dtype}"
            )
        if x.layout != torch.strided or x.is_meta or x.is_quantized or x.is_nested:
            kind = "a nested tensor" if x.is_nested else f"{x.layout} on {x.device}"
            raise InvalidTypeError(f"{name} must be a dense tensor with data, got {kind}")
        if slope is not None and x.requires_grad and torch.is_grad_enabled():
            return _Differentiable.apply(x, curve, slope, name)  # type: ignore[no-any-return,no-untyped-call]
        # Apple's mps has no float64
        work = x.detach().to("cpu" if x.device.type == "mps" else x.device, torch.float64)
        inside = (work >= 0) & (work <= 1)
        if not bool(inside.all()):
            worst = float(work[~inside].flatten()[0])
            raise InvalidValueError(f"{name} must lie in [0, 1], got {worst!r}")
        out = curve(work)
        return out.to(x.device, x.dtype if x.is_floating_point() else torch.float64)  # type: ignore[return-value]
    try:
        # Numbers, lists and numpy arrays go by way of one tensor and come back as what they were.
        array = np.asarray(
            float(x) if isinstance(x, numbers.Real) and not isinstance(x, bool | np.generic) else x
        )
        if array.dtype.kind not in "fiu":  # no bools, texts, complex numbers, objects
            raise TypeError
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise InvalidTypeError(
            f"{name} must be a number, array or tensor of numbers in [0, 1], got {shown(x)}"
        ) from None
    dtype = array.dtype if array.dtype.kind == "f" else np.dtype(np.float64)
    flat = torch.from_numpy(np.array(array, dtype=np.float64, copy=True))
    out = apply_curve(curve, flat, name)
    if isinstance(x, np.ndarray | np.generic):
        return out.numpy().astype(dtype)[()]  # type: ignore[return-value]
    return out.item() if out.ndim == 0 else out  # type: ignore[return-value]


class _Differentiable(torch.autograd.Function):
    """alpha as seen by autograd: the derivative is the schedule's own slope."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, curve: Curve, slope: Curve, name: str) -> torch.Tensor:
        ctx.slope, ctx.name = slope, name
        ctx.save_for_backward(x)
        return apply_curve(curve, x.detach(), name)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (
            grad * apply_curve(ctx.slope, ctx.saved_tensors[0].detach(), ctx.name),
            None,
            None,
            None,
        )
