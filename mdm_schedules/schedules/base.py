"""What a mask schedule is: alpha(t), its slope, its inverse, and the gamma it is optimal for.

Time t is generation time: 0 = every token masked, 1 = clean text (arXiv 2509.13866, Section 2). The
noise-time view (tau = 1 - t) is reached only through methods with "noise" in their name.
"""

from __future__ import annotations

import dataclasses
import math
import os
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from mdm_schedules import sketch
from mdm_schedules.errors import FormatError, InvalidTypeError, MDMError
from mdm_schedules.hub import Evaluation, Record
from mdm_schedules.plan import check_steps, make_plan
from mdm_schedules.plotting import PlottedCurve, check_picture, draw_figure, save_picture
from mdm_schedules.registry import Registry
from mdm_schedules.schedules.curves import (
    PLOT_TIMES,
    T,
    apply_curve,
    end_limits,
    exact_ends,
    time_before,
)
from mdm_schedules.schedules.stored import StoredSchedule

if TYPE_CHECKING:
    pass


class Schedule(StoredSchedule):
    """The expected fraction of tokens revealed, alpha: [0, 1] -> [0, 1].

    alpha increases strictly from 0 to 1.

    Subclasses are frozen dataclasses (`@dataclass(frozen=True, repr=False)`) with a class attribute
    `name`; their fields are the parameters. They write `_alpha` and `_alpha_dot` on float64
    tensors, and `_inverse`, `_gamma`, `_gamma_dot`, `_masked`, `_roots` where a closed form exists,
    and `_end_orders` where the powers at the ends are known.
    `mdm_schedules.testing.check_schedule` tests a new one.

    Every public method takes numbers, lists, numpy arrays or tensors and keeps shape, device and
    floating dtype; the arithmetic inside is float64. Slopes may be infinite at the ends, and are
    then returned as `inf`. `alpha`, `gamma` and `alpha_noise` are differentiable in a tensor, once;
    the others are not: they return a detached tensor.
    """

    name: ClassVar[str]
    _record: ClassVar[Record | None] = None  # on an instance: what it was read from

    @abstractmethod
    def _alpha(self, t: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def _alpha_dot(self, t: torch.Tensor) -> torch.Tensor: ...

    def _masked(self, t: torch.Tensor) -> torch.Tensor:
        """1 - alpha, without the cancellation near t = 1 where a formula allows.

        The loss is divided by it.
        """
        return 1 - self._alpha(t)

    def _inverse(self, alpha: torch.Tensor) -> torch.Tensor:
        low, high = torch.zeros_like(alpha), torch.ones_like(alpha)
        # Bisection: each round gains one bit, and a float64 in [0, 1] has about 53.
        for _ in range(60):
            middle = (low + high) / 2
            below = self._alpha(middle) < alpha
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return exact_ends(alpha, (low + high) / 2)

    def _roots(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The roots of alpha and 1 - alpha, for where alpha underflows but its root does not."""
        return self._alpha(t).sqrt(), self._masked(t).sqrt()

    def _end_orders(self) -> tuple[float, float] | None:
        """Powers (p, q) with gamma ~ t^p at t = 0 and 1 - gamma ~ (1 - t)^q at t = 1.

        Both hold up to a factor. In alpha they are twice that: alpha ~ t^(2p) and
        1 - alpha ~ (1 - t)^(2q). A class that returns them promises that `_alpha`, `_masked` and
        the slopes keep their digits near both ends. Energies then decide exactly whether they are
        finite, and the noise-time view resolves times that 1 - tau rounds away. None: the ends are
        measured, with less accuracy. A subclass that changes the ends of its base must override
        this.
        """
        return None

    def _end_gaps(self) -> tuple[float, float]:
        """Powers (r, s) of the first correction at the ends.

        At 0, gamma ~ t^p (1 + c t^r), and likewise at 1.
        """
        return 1.0, 1.0

    def _gamma(self, t: torch.Tensor) -> torch.Tensor:
        reveal, mask = self._roots(t)
        # the angle from the nearer end, so that 1 - gamma keeps its digits too
        nearer = torch.atan2(torch.minimum(reveal, mask), torch.maximum(reveal, mask))
        nearer = nearer * (2 / math.pi)
        return torch.where(reveal <= mask, nearer, 1 - nearer)

    def _gamma_dot(self, t: torch.Tensor) -> torch.Tensor:
        (reveal, mask), slope = self._roots(t), self._alpha_dot(t)
        # gamma = (2/pi) arcsin sqrt alpha, differentiated.
        inside = slope / (math.pi * reveal * mask)
        at_end = (reveal == 0) | (mask == 0)
        if not bool(at_end.any()):
            return inside
        # At an end alpha_dot > 0 makes gamma_dot infinite; alpha_dot = 0 is an indeterminate form,
        # whose limit is that of (2/pi) sqrt alpha (families with a closed form override this
        # method).
        limit = end_limits(
            t,
            lambda x: self._roots(x)[0] * (2 / math.pi),
            lambda x: self._roots(x)[1] * (2 / math.pi),
        )
        return torch.where(at_end, torch.where(slope > 0, math.inf, limit), inside)

    def _loss_weight(self, t: torch.Tensor) -> torch.Tensor:
        masked = self._masked(t)
        return torch.where(masked == 0, math.inf, self._alpha_dot(t) / masked)

    def _late(self, tau: torch.Tensor, order: float) -> tuple[torch.Tensor, ...]:
        """The float t next to 1 - tau, and how the curve differs between the two.

        Returns t; the angle from the end, (pi/2) (1 - gamma), at t and at 1 - tau itself; and the
        ratio of gamma_dot at 1 - tau to that at t.

        1 - gamma is a power of its distance from 1, `order`, times a factor that hardly changes
        from one float to the next.
        """
        # Near an end gamma follows a power of the distance, so the step from t to 1 - tau is one
        # factor.
        t, shift = time_before(tau)
        reveal, mask = self._roots(t)
        angle = torch.atan2(mask, reveal)
        return t, angle, angle * torch.exp(order * shift), torch.exp((order - 1) * shift)

    def _alpha_noise(self, tau: torch.Tensor) -> torch.Tensor:
        """alpha(1 - tau), without the rounding of 1 - tau where the order of the end is known."""
        orders = self._end_orders()
        if orders is None:
            return self._alpha(1 - tau)
        t, near, exact, _ = self._late(tau, orders[1])
        # plus sin^2 near - sin^2 exact
        alpha = self._alpha(t) + torch.sin(near - exact) * torch.sin(near + exact)
        return torch.where(tau == 0, 1.0, alpha)

    def _alpha_noise_dot(self, tau: torch.Tensor) -> torch.Tensor:
        """-alpha_dot(1 - tau), likewise."""
        orders = self._end_orders()
        if orders is None:
            return -self._alpha_dot(1 - tau)
        t, near, exact, steeper = self._late(tau, orders[1])
        # alpha_dot is (pi/2) sin(2 angle) gamma_dot
        inside = -self._alpha_dot(t) * (torch.sin(2 * exact) / torch.sin(2 * near)) * steeper
        return torch.where(tau == 0, -self._alpha_dot(torch.ones_like(tau)), inside)

    def alpha(self, t: T) -> T:
        """Expected fraction of tokens revealed at generation time t (arXiv 2509.13866, Section 2).

        Raises InvalidValueError (a ValueError) for t outside [0, 1] or NaN. Differentiable in a
        tensor t.
        """
        return apply_curve(self._alpha, t, "t", self._alpha_dot)

    def alpha_dot(self, t: T) -> T:
        """Slope d alpha / dt at t in [0, 1]; `inf` where the curve starts or ends vertically."""
        return apply_curve(self._alpha_dot, t, "t")

    def inverse(self, alpha: T) -> T:
        """The time t in [0, 1] at which a fraction `alpha` in [0, 1] of the tokens is revealed."""
        return apply_curve(self._inverse, alpha, "alpha")

    def gamma(self, t: T) -> T:
        """The interpolation schedule for which this one is optimal (arXiv 2509.13866, Lemma 3.5).

        It is (2/pi) arcsin sqrt alpha(t).
        """
        return apply_curve(self._gamma, t, "t", self._gamma_dot)

    def gamma_dot(self, t: T) -> T:
        """Slope of gamma at t: alpha_dot / (pi sqrt(alpha (1 - alpha))).

        `inf` where gamma is vertical.
        """
        return apply_curve(self._gamma_dot, t, "t")

    def loss_weight(self, t: T) -> T:
        """Weight of the masked cross-entropy in the MDM bound, alpha_dot / (1 - alpha).

        The weight is `inf` at t = 1. It is also the rate at which a masked token is revealed (arXiv
        2509.13866, Section 2).
        """
        return apply_curve(self._loss_weight, t, "t")

    def alpha_noise(self, tau: T) -> T:
        """alpha in noise time, alpha(1 - tau): 1 at tau = 0 (clean), 0 at tau = 1.

        MDLM, LLaDA and dLLM write it so.
        """
        return apply_curve(self._alpha_noise, tau, "tau", self._alpha_noise_dot)

    def alpha_noise_dot(self, tau: T) -> T:
        """Slope of `alpha_noise` in tau: -alpha_dot(1 - tau), never positive.

        Computed in tau, so that it keeps its digits however near tau is to 0 (for a schedule
        without `_end_orders`, only as near as 1 - tau resolves).
        """
        return apply_curve(self._alpha_noise_dot, tau, "tau")

    def mask_ratio(self, r: T) -> T:
        """The share of tokens still masked after a share r of the passes, in [0, 1]: 1 - alpha(r).

        It is what code after MaskGIT (MMaDA, Show-o, open-muse) takes as
        `noise_schedule=schedule.mask_ratio`, the mask scheduling function of arXiv 2202.04200. It
        falls from 1 to 0; that of `cosine` is cos(pi r / 2). Differentiable in a tensor r.
        """
        return apply_curve(
            lambda x: exact_ends(1 - x, self._masked(x)), r, "r", lambda x: -self._alpha_dot(x)
        )

    def plan(
        self, num_tokens: int | torch.Tensor, steps: int, allow_empty: bool = False
    ) -> torch.Tensor:
        """How many tokens each of `steps` steps reveals: integers that sum exactly to `num_tokens`.

        Cumulative rounding of num_tokens * alpha(i / steps), halves up. By default every step
        reveals at least one token while tokens remain, so `steps` > `num_tokens` gives num_tokens
        steps of one token and then zeros.

        Args:
            num_tokens: masked tokens, an int >= 0 or an integer tensor [B].
            steps: forward passes, 1 to 2**24.
            allow_empty: True keeps the paper's plain rounding, where a step may reveal nothing.

        Returns:
            LongTensor [steps], or [B, steps] for a tensor, on the device of `num_tokens`.
        """
        steps = check_steps(steps)
        # on the host whatever torch's default device, as the counts are
        times = torch.arange(1, steps + 1, dtype=torch.float64, device="cpu") / steps
        return make_plan(self.alpha(times), num_tokens, allow_empty)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by name, in the order of the constructor."""
        if not dataclasses.is_dataclass(self):
            raise InvalidTypeError(
                f"{type(self).__name__} must be a frozen dataclass: @dataclass(frozen=True, "
                "repr=False)"
            )
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def spec(self) -> str:
        """The schedule as text that `get_schedule` reads back, such as 'beta(a=0.9, b=0.3)'.

        Raises FormatError if a parameter has no such text (a Python function, say).
        """
        return self._write_spec(strict=True)

    def _write_spec(self, strict: bool) -> str:
        parts = []
        for key, value in self.params.items():
            if isinstance(value, Schedule):
                text = value._write_spec(strict)
            else:
                if strict:
                    self._check_writable(key, value)
                text = repr(value)
            parts.append(f"{key}={text}")
        return f"{self.name}({', '.join(parts)})"

    def _check_writable(self, key: str, value: object) -> None:
        if not (value is None or isinstance(value, bool | int | float | str | tuple)):
            raise FormatError(
                f"{self.name} cannot be written as text or saved: its {key} is {value!r}"
            )

    def __repr__(self) -> str:
        return (
            self._write_spec(strict=False)
            if dataclasses.is_dataclass(self)
            else object.__repr__(self)
        )

    def to_record(self, evaluation: Evaluation | None = None) -> Record:
        """The schedule as data, for files and the Hub.

        Args:
            evaluation: what it scored; None keeps the record that it was read with.

        Raises:
            FormatError: a parameter cannot be written (a Python function, say).
        """
        params = {}
        for key, value in self.params.items():
            if isinstance(value, Schedule):
                params[key] = value.to_record()
            else:
                self._check_writable(key, value)
                params[key] = value
        # Fields of a later format, and the evaluation unless a new one is given, go back to the
        # file.
        read = self._record
        kept = read.evaluation if read is not None and evaluation is None else evaluation
        return Record(self.name, params, kept, {} if read is None else read.extra)

    @staticmethod
    def from_record(record: Record) -> Schedule:
        """The schedule that a record stands for.

        Raises FormatError, naming the record's file, where it stands for none.
        """
        try:
            params = {
                key: Schedule.from_record(value) if isinstance(value, Record) else value
                for key, value in record.params.items()
            }
            schedule = schedules.build(record.name, [], params)
        except MDMError as error:
            if isinstance(error, FormatError) or not record.source:
                raise
            raise FormatError(f"{record.source}: {error}") from error
        # no parameter: the schedule stays equal to one that was not read
        object.__setattr__(schedule, "_record", record)
        return schedule

    @property
    def evaluation(self) -> Evaluation | None:
        """What this schedule scored, if the file or repository it was read from says so."""
        return None if self._record is None else self._record.evaluation

    def curve(self, num_tokens: int, steps: int) -> PlottedCurve:
        """What `mdm_schedules.plotting` draws: alpha at PLOT_TIMES, and a plan."""
        return PlottedCurve(self.label, self.alpha(PLOT_TIMES), self.plan(num_tokens, steps))

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        num_tokens: int = 256,
        steps: int = 16,
    ) -> Any:
        """A matplotlib Figure of alpha beside the plan, written to `path` if given.

        Args:
            path: picture to write; its ending gives the format.
            num_tokens, steps: of the plan.

        Raises:
            MissingExtraError: matplotlib is not installed (the extra `plot`).
            InvalidValueError, StorageError: `path` is no place for a picture.
        """
        if path is not None:
            check_picture(path)
        figure = draw_figure(PLOT_TIMES, [self.curve(num_tokens, steps)], num_tokens)
        if path is not None:
            save_picture(figure, path)
        return figure

    def _repr_html_(self) -> str:
        times = torch.linspace(0, 1, 65, dtype=torch.float64, device="cpu")
        alpha = sketch.curve(self.alpha(times).tolist(), "alpha(t)", ("0", "1"), 1.0)
        plan = sketch.bars(self.plan(256, 16).tolist(), "256 tokens in 16 passes")
        return sketch.view(self.label, alpha, plan)

    @property
    def label(self) -> str:
        """The spec, or the name alone where the spec is long; for legends."""
        return self.spec if len(self.spec) < 40 else self.name


schedules: Registry[Schedule] = Registry(
    "mdm_schedules.schedules",
    "schedule",
    Schedule,  # type: ignore[type-abstract]
    example="beta(a=0.9, b=0.3)",
)
