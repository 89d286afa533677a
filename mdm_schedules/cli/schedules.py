"""Commands about schedules by themselves: show, plot, energy."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from mdm_schedules.cli.command import Command
from mdm_schedules.cli.common import in_shell_words, positive, scored, show_result


def _show(args: argparse.Namespace) -> None:
    from mdm_schedules.lookup import schedule_for_steps

    choice = {"subfolder": args.subfolder, "task": args.task}
    choice = {key: value for key, value in choice.items() if value is not None}
    with in_shell_words():
        schedule = schedule_for_steps(args.schedule, args.steps, **choice)
    steps = 16 if args.steps is None else args.steps
    evaluation = schedule.evaluation
    times = [i / 8 for i in range(9)]
    data = {
        "schedule": schedule.spec,
        "t": times,
        "alpha": schedule.alpha(times).tolist(),  # type: ignore[attr-defined]
        "gamma": schedule.gamma(times).tolist(),  # type: ignore[attr-defined]
        "num_tokens": args.num_tokens,
        "plan": schedule.plan(args.num_tokens, steps).tolist(),
        "evaluation": evaluation and evaluation.to_json(),
    }
    summary = " ".join((type(schedule).__doc__ or "").partition("\n\n")[0].split())
    rows = zip(data["t"], data["alpha"], data["gamma"], strict=True)
    curve = "\n".join(f"{t:5.3f}  {alpha:8.6f}  {gamma:8.6f}" for t, alpha, gamma in rows)
    plan = (
        f"plan for {args.num_tokens} tokens in {steps} steps:\n{' '.join(map(str, data['plan']))}"
    )
    score = f"\n{scored(evaluation)}" if evaluation else ""
    show_result(
        args,
        data,
        f"{schedule.spec}\n{summary}{score}\n\n    t     alpha     gamma\n{curve}\n\n{plan}",
    )


def _plot(args: argparse.Namespace) -> None:
    from mdm_schedules.lookup import schedule_for_steps
    from mdm_schedules.plotting import save_curves
    from mdm_schedules.schedules.curves import PLOT_TIMES

    schedules = [schedule_for_steps(spec, args.steps) for spec in args.schedule]
    curves = [schedule.curve(args.num_tokens, args.steps) for schedule in schedules]
    save_curves(PLOT_TIMES, curves, args.output, num_tokens=args.num_tokens)
    show_result(args, {"picture": str(args.output)}, f"Picture: {args.output}")


def _energy(args: argparse.Namespace) -> None:
    from mdm_schedules.energy import discrete_energy, energy_excess
    from mdm_schedules.lookup import get_schedule

    schedule = get_schedule(args.schedule)
    gamma = None if args.gamma is None else get_schedule(args.gamma)
    excess = energy_excess(schedule, gamma)
    data = {
        "schedule": schedule.spec,
        "gamma": None if gamma is None else gamma.spec,
        "energy": excess * math.pi**2 if math.isfinite(excess) else None,  # JSON has no infinity
        "excess": excess if math.isfinite(excess) else None,
        "excess_error": excess.error,
        "steps": args.steps,
        "discrete_energy": discrete_energy(schedule, args.steps, gamma),
    }
    weight = "gamma(t) = t" if gamma is None else f"the gamma of {gamma.spec}"
    value = f"{excess * math.pi**2:.9g} = {excess:.9g} * pi^2 (error {excess.error:.1g})"
    text = f"{schedule.spec} under {weight}, per token (arXiv 2509.13866, Eq. 14):\n"
    text += (
        f"energy: {value if math.isfinite(excess) else 'infinite'}; the least possible is pi^2\n"
    )
    show_result(
        args, data, f"{text}in {args.steps} steps (App. D.5): {data['discrete_energy']:.9g}"
    )


def add(command: Command) -> None:
    """Add the commands of this module."""
    what = "name, spec such as 'beta(a=0.9, b=0.3)', folder, preset or Hub id"
    show = command("show", _show, "Print a schedule's curve and plan.")
    show.add_argument("schedule", help=what)
    show.add_argument(
        "--steps",
        type=positive,
        help="of the plan (default: 16), and nearest to the schedule's where several fit",
    )
    show.add_argument("--subfolder", help="folder in the repository (default: found by the rest)")
    show.add_argument("--task", help="such as gsm8k, where several fit (default: any)")
    show.example(
        "show linear",
        "show 'beta(a=0.9, b=0.3)' --num-tokens 64 --steps 8",
        "show preset:llada-8b/mbpp --steps 16",
    )

    plot = command("plot", _plot, "Save a picture of schedules and their plans.")
    plot.add_argument("schedule", nargs="+", help=what)
    plot.add_argument(
        "--output", type=Path, default=Path("schedules.png"), help="picture to write: png, pdf, svg"
    )
    plot.add_argument("--steps", type=positive, default=16, help="of the plans")
    plot.example("plot linear sine 'beta(a=1, b=0.2)' --output curves.png")
    for sub in (show, plot):
        sub.add_argument("--num-tokens", type=positive, default=256, help="of the plan")

    energy = command(
        "energy", _energy, "Print a schedule's energy, and how far it is above the minimum."
    )
    energy.add_argument("schedule", help=what)
    energy.add_argument(
        "--gamma", help="the schedule whose gamma weighs the energy (default: gamma(t) = t)"
    )
    energy.add_argument("--steps", type=positive, default=16, help="of the discrete energy")
    energy.example("energy squared_sine", "energy linear --gamma linear")
