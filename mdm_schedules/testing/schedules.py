"""The conformance suite for schedules."""

from __future__ import annotations

import math
import pickle
import tempfile
from typing import Any

import numpy as np
import torch

from mdm_schedules.errors import InvalidValueError
from mdm_schedules.lookup import get_schedule
from mdm_schedules.schedules import Schedule, schedules
from mdm_schedules.testing.common import require


def _times(count: int = 513) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    inner = torch.rand(count, generator=generator, dtype=torch.float64)
    return (
        torch.cat(
            [inner, torch.tensor([0.0, 1e-12, 1e-6, 0.5, 1 - 1e-6, 1.0], dtype=torch.float64)]
        )
        .sort()
        .values
    )


def check_ends(schedule: Schedule) -> None:
    """alpha, gamma and inverse are exactly 0 at 0 and exactly 1 at 1."""
    for method in (schedule.alpha, schedule.gamma, schedule.inverse):
        low, high = method(0.0), method(1.0)
        require(
            low == 0.0 and high == 1.0,
            schedule,
            f"{method.__name__} must run from 0 to 1, got {low} and {high}",
        )


def check_monotone(schedule: Schedule) -> None:
    """alpha never falls, rises over any tenth of [0, 1], and stays in [0, 1].

    Its slope is never negative.
    """
    t = _times()
    alpha, slope = schedule.alpha(t), schedule.alpha_dot(t)
    require(bool(((alpha >= 0) & (alpha <= 1)).all()), schedule, "alpha must stay in [0, 1]")
    require(bool((alpha.diff() >= 0).all()), schedule, "alpha must not fall")
    middle = schedule.alpha(schedule.inverse(torch.linspace(0, 1, 11, dtype=torch.float64)))
    require(bool((middle.diff() > 0).all()), schedule, "alpha must rise")
    require(bool((slope >= 0).all()), schedule, "alpha_dot must not be negative or NaN")
    require(
        bool((schedule.gamma_dot(t) >= 0).all()), schedule, "gamma_dot must not be negative or NaN"
    )


def check_inverse(schedule: Schedule, tolerance: float = 1e-9) -> None:
    """alpha(inverse(x)) = x, and inverse(alpha(t)) = t where the curve is not flat."""
    x = _times()
    inverted = schedule.inverse(x)
    require(
        bool(((inverted >= 0) & (inverted <= 1)).all()), schedule, "inverse must stay in [0, 1]"
    )
    # a time nearer to 1 (or 0) than floats resolve moves alpha by up to its steepness
    room = tolerance + (
        schedule.alpha((inverted + 2e-16).clamp(max=1))
        - schedule.alpha((inverted - 2e-16).clamp(min=0))
    )
    error = (schedule.alpha(inverted) - x).abs()
    require(
        bool((error <= room).all()),
        schedule,
        f"alpha(inverse(x)) differs from x by {float(error.max()):.1e}",
    )
    t = _times()
    steep = (schedule.alpha_dot(t) > 1e-3) & (t > 1e-3) & (t < 1 - 1e-3)
    gap = (schedule.inverse(schedule.alpha(t)) - t).abs()[steep]
    require(bool((gap <= 1e-6).all()), schedule, "inverse(alpha(t)) differs from t")


def check_slope(schedule: Schedule, tolerance: float = 1e-4) -> None:
    """alpha_dot and gamma_dot agree with differences, autograd of alpha with alpha_dot.

    At a kink the slopes agree with the difference on one side.
    """
    t = _times()
    t = t[(t > 1e-3) & (t < 1 - 1e-3)]
    step = 1e-6
    for value, slope in (
        (schedule.alpha, schedule.alpha_dot),
        (schedule.gamma, schedule.gamma_dot),
    ):
        before, here, after = value(t - step), value(t), value(t + step)
        differences = torch.stack([after - before, 2 * (after - here), 2 * (here - before)]) / (
            2 * step
        )
        error = ((slope(t) - differences).abs() / (1 + differences.abs())).amin(0)
        require(
            bool((error <= tolerance).all()),
            schedule,
            f"{slope.__name__} is not the slope of {value.__name__}",
        )
    leaf = t.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(schedule.alpha(leaf).sum(), leaf)
    require(
        torch.equal(gradient, schedule.alpha_dot(t)), schedule, "autograd of alpha is not alpha_dot"
    )


def check_views(schedule: Schedule, tolerance: float = 1e-6) -> None:
    """gamma and the loss weight say the same as alpha."""
    t = _times()
    alpha = schedule.alpha(t)
    gap = float((torch.sin(schedule.gamma(t) * (math.pi / 2)).square() - alpha).abs().max())
    require(gap <= tolerance, schedule, "gamma is not (2/pi) arcsin sqrt alpha")
    weight, slope = schedule.loss_weight(t), schedule.alpha_dot(t)
    require(bool((weight >= 0).all()), schedule, "loss_weight must not be negative or NaN")
    inside = (alpha < 0.999) & slope.isfinite()
    error = (weight * (1 - alpha) - slope).abs()[inside] / (1 + slope[inside])
    require(
        bool((error <= tolerance).all()), schedule, "loss_weight is not alpha_dot / (1 - alpha)"
    )


def check_noise_time(schedule: Schedule, tolerance: float = 1e-9) -> None:
    """alpha_noise(tau) is alpha(1 - tau).

    Its slope keeps its digits where 1 - tau rounds to 1.
    """
    tau = _times()
    t = 1 - tau
    # 1 - tau is rounded, which moves alpha by up to its steepness
    room = 1e-12 + schedule.alpha((t + 2e-16).clamp(max=1)) - schedule.alpha((t - 2e-16).clamp(0))
    gap = (schedule.alpha_noise(tau) - schedule.alpha(t)).abs()
    require(bool((gap <= room).all()), schedule, "alpha_noise(tau) is not alpha(1 - tau)")
    require(
        bool((schedule.alpha_noise_dot(tau) <= 0).all()),
        schedule,
        "alpha_noise_dot must not be positive or NaN",
    )
    exact = torch.arange(513, dtype=torch.float64) / 512  # 1 - tau is not rounded
    slope, right = schedule.alpha_noise_dot(exact), -schedule.alpha_dot(1 - exact)
    same = (slope == right) | ((slope - right).abs() <= tolerance * (1e-290 + right.abs()))
    require(bool(same.all()), schedule, "alpha_noise_dot(tau) is not -alpha_dot(1 - tau)")
    orders = schedule._end_orders()
    if orders is None:
        return
    # from tau = 2^-40 to 2^-60 the angle (pi/2) (1 - gamma) falls by a power, and alpha_dot is
    # (pi/2) sin(2 angle) gamma_dot
    reveal, mask = schedule._roots(torch.tensor([1 - 2.0**-40], dtype=torch.float64))
    angle, power = math.atan2(float(mask), float(reveal)), orders[1]
    far, near = (float(schedule.alpha_noise_dot(2.0**-k)) for k in (40, 60))
    if min(angle, -far) < 1e-140:
        return
    ratio = math.sin(2 * angle * 2 ** (-20 * power)) / math.sin(2 * angle)
    expected = far * ratio * 2 ** (-20 * (power - 1))
    require(
        abs(near - expected) <= 1e-3 * abs(expected) + 1e-290,
        schedule,
        f"alpha_noise_dot(2^-60) is {near:g}, but by _end_orders it goes on to {expected:g}",
    )


def check_end_orders(schedule: Schedule) -> None:
    """`_end_orders`, where given, are the powers of gamma at 0 and of 1 - gamma at 1.

    The formulas keep their digits there.
    """
    orders = schedule._end_orders()
    if orders is None:
        return
    for end, order, gap in zip((0, 1), orders, schedule._end_gaps(), strict=True):
        # the local power, distance * slope / value; t = 1 - 2^-50 is the last without rounding
        x = 2.0 ** -torch.arange(1000 if end == 0 else 50, 2, -1, dtype=torch.float64)
        t = x if end == 0 else 1 - x
        reveal, mask = schedule._roots(t)
        value = schedule._gamma(t) if end == 0 else torch.atan2(mask, reveal) * (2 / math.pi)
        slope = schedule._gamma_dot(t)
        usable = ((value > 1e-140) & (slope > 1e-290) & (slope < 1e290)).nonzero()[:, 0]
        if len(usable) < 2:
            continue
        first = int(usable[0])
        local, wider = (x * slope / value)[first : first + 2].tolist()
        # what is missing falls like x^gap
        room = 1e-3 * (1 + order) + 3 * abs(wider - local) / (2**gap - 1)
        require(
            order > 0 and abs(local - order) <= room,
            schedule,
            f"_end_orders()[{end}] is {order:g}, but the power at t = {end} is about {local:g}",
        )


def check_types(schedule: Schedule) -> None:
    """Shape, floating dtype, device and container of the argument are kept.

    The argument is not changed.
    """
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        t = (
            torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1))
            .to(dtype)
            .transpose(0, 2)
        )
        before = t.clone()
        for method in (
            schedule.alpha,
            schedule.alpha_dot,
            schedule.inverse,
            schedule.gamma,
            schedule.gamma_dot,
        ):
            out = method(t)
            kept = out.shape == t.shape and out.dtype == dtype and out.device == t.device
            require(
                kept,
                schedule,
                f"{method.__name__} of a {dtype} tensor gave {out.dtype} {tuple(out.shape)}",
            )
            own = out.data_ptr() != t.data_ptr()
            require(
                own,
                schedule,
                f"{method.__name__} returns its argument; return a new tensor, as t.clone()",
            )
        require(torch.equal(t, before), schedule, "the argument was changed in place")
    require(
        schedule.alpha(torch.zeros(0)).shape == (0,), schedule, "an empty tensor must stay empty"
    )
    require(isinstance(schedule.alpha(0.5), float), schedule, "a float must give a float")
    require(
        isinstance(schedule.alpha(np.array([0.5])), np.ndarray),
        schedule,
        "an array must give an array",
    )
    for bad in (-0.1, 1.1, float("nan")):
        try:
            schedule.alpha(bad)
        except InvalidValueError:
            continue
        raise AssertionError(f"{schedule!r}: alpha({bad}) must raise InvalidValueError")


def check_round_trips(schedule: Schedule) -> None:
    """repr, pickle and files give back an equal schedule with the same hash.

    The schedule cannot be changed.
    """
    with tempfile.TemporaryDirectory() as folder:
        schedule.save_pretrained(folder)
        copies: dict[str, Any] = {
            "pickle": pickle.loads(pickle.dumps(schedule)),
            "repr": get_schedule(repr(schedule)),
            "files": Schedule.from_pretrained(folder),
        }
    t = _times(64)
    for route, copy in copies.items():
        equal = copy == schedule and hash(copy) == hash(schedule) and repr(copy) == repr(schedule)
        require(equal, schedule, f"{route} gave {copy!r}")
        require(torch.equal(copy.alpha(t), schedule.alpha(t)), schedule, f"{route} changed alpha")
    for field in vars(schedule):
        try:
            setattr(schedule, field, None)
        except AttributeError:
            continue
        raise AssertionError(
            f"{schedule!r}: {field} can be changed; use @dataclass(frozen=True, repr=False)"
        )


def check_plan(schedule: Schedule) -> None:
    """Plans are non-negative integers with the right sum, and waste no step."""
    for tokens, steps in ((256, 16), (7, 7), (5, 9), (1, 1), (1000, 3)):
        plan = schedule.plan(tokens, steps)
        right = plan.shape == (steps,) and plan.dtype == torch.long and int(plan.sum()) == tokens
        require(
            right and bool((plan >= 0).all()),
            schedule,
            f"plan({tokens}, {steps}) is {plan.tolist()}",
        )
        require(
            int((plan > 0).sum()) == min(tokens, steps),
            schedule,
            f"plan({tokens}, {steps}) wastes a step",
        )


def check_schedule(schedule: Schedule, *, registered: bool = True) -> None:
    """Run the whole suite; raises AssertionError saying what is wrong.

    Args:
        schedule: an instance of the schedule under test.
        registered: its class is reachable by name; without that, repr and files cannot be read
            back.
    """
    require(isinstance(schedule, Schedule), schedule, "must derive from mdm_schedules.Schedule")
    for check in (
        check_ends,
        check_monotone,
        check_inverse,
        check_slope,
        check_views,
        check_noise_time,
        check_end_orders,
        check_types,
        check_plan,
    ):
        check(schedule)
    if registered:
        found = schedules.get(type(schedule).name)
        require(
            found is type(schedule),
            schedule,
            f"the name {type(schedule).name!r} belongs to {found!r}",
        )
        check_round_trips(schedule)
