"""Answers a list, a file or a stream of prompts on all processes of a job."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from mdm_schedules.checks import check_int, check_real
from mdm_schedules.errors import DistributedError, InvalidTypeError, InvalidValueError
from mdm_schedules.files import local_path
from mdm_schedules.integrations.accelerate.fingerprint import fingerprint
from mdm_schedules.integrations.accelerate.job import Job, Tickets, lane_of
from mdm_schedules.integrations.accelerate.prompts import Encoder, check_source, count_prompts
from mdm_schedules.integrations.accelerate.shards import Finished, Output, differences
from mdm_schedules.integrations.accelerate.worker import Worker
from mdm_schedules.lookup import schedule_for_steps
from mdm_schedules.models import ModelAdapter, evaluating, get_adapter
from mdm_schedules.models.wrappers import unwrap
from mdm_schedules.sampling.batching import length_key
from mdm_schedules.sampling.generation import own_schedule
from mdm_schedules.sampling.names import unknown_option
from mdm_schedules.sampling.noise import check_seed
from mdm_schedules.sampling.options import STORED
from mdm_schedules.sampling.prompt import check_mask_token
from mdm_schedules.sampling.stored import merge_options

_ALSO = ("logits_processor", "callback")  # options of `generate` that no config stores


@dataclass(frozen=True)
class DistributedOutput:
    """The outcome of a job, available on every process.

    Attributes:
        records: a dict for each answer, in the order of the prompts; empty if they were written to
            `output_path`.
        prompts: number of prompts.
        done_before: number of prompts whose results existed before this run.
        skipped: number of prompts that this run skipped because of an error; their records hold it.
        tokens: number of tokens that this run wrote, on all processes.
        nfe: number of forward passes that this run spent on all processes; a pass over a batch
            counts once.
        seed: the seed from which each prompt's own seed is derived.
        seconds: duration of this run in seconds.
        output_path: the file with the records.
    """

    records: list[dict[str, Any]] = field(repr=False)
    prompts: int
    done_before: int
    skipped: int
    tokens: int
    nfe: int
    seed: int
    seconds: float
    output_path: str | None


def generate_distributed(
    model: Any,
    prompts: Any,
    *,
    tokenizer: Any = None,
    output_path: str | os.PathLike[str] | None = None,
    batch_size: int = 8,
    on_error: str = "stop",
    overwrite: bool = False,
    force_resume: bool = False,
    extend: bool = False,
    split: str = "dynamic",
    add_special_tokens: bool = False,
    progress: bool = False,
    timeout: float = 60.0,
    adapter: str | None = None,
    generation_config: Any = None,
    **options: Any,
) -> DistributedOutput:
    """Run `generate` for many prompts on all processes of a launcher's job, or on one process.

    The launcher is `accelerate launch` or torchrun.

    All processes must call this function with the same arguments. Each prompt's seed is derived
    from `seed` and the prompt's index, and the batches depend on the prompts and `batch_size` only,
    so the tokens are the same on any number of processes.

    A record is a dict with `index`, `tokens` (prompt and answer, without padding), `prompt_length`,
    `nfe` (passes in which this sequence got a token) and `seed`; with `id`, if the prompt has one;
    with `sample`, if num_return_sequences is above 1; and, if there is a tokenizer, with `text`
    (prompt and answer) and `answer`. The record of a skipped prompt has `index`, `id` and `error`.

    Args:
        model: as `generate` takes it, on this process's device (`PartialState().device`). Processes
            that share a sharded model (FSDP, ZeRO-3, tensor parallel) run it together, on the same
            batches.
        prompts: any iterable (such as a datasets stream) of texts, lists of token ids, or dicts
            with "prompt" and optionally "id"; or the path of a .jsonl file of these, or of a text
            file with a prompt on each line. Blank lines of files are ignored. Each process reads
            the whole iterable, at most 2,048 prompts at a time.
        tokenizer: encodes texts and decodes results; may be None for token ids. Ids that it
            has no token for are never drawn.
        output_path: JSONL file to write, in a folder that all processes see; it appears when the
            job is complete. Until then the results are in the folder `<output_path>.shards`, from
            which a repeated call resumes. None keeps all records in memory and returns them.
        batch_size: prompts per pass; a pass runs this many times num_return_sequences sequences.
        on_error: "stop" at a prompt that cannot be read or is too long; "skip" writes a record with
            the error.
        overwrite: discard an existing output, complete or partial.
        force_resume: resume even from results of another model, schedule or options.
        extend: where prompts were appended to those of a finished output, keep its records and do
            the new ones. Takes a path or a list, which can be read twice.
        split: "dynamic" gives each batch to the next free process; "even" deals the batches out in
            turn.
        add_special_tokens: let the tokenizer add its special tokens to prompts.
        progress: show one progress bar for the whole job, on the main process.
        timeout: seconds without a sign of life after which a process counts as dead, > 0.
        adapter: as in `generate`.
        generation_config: as in `generate`.
        **options: options of `generate` (schedule, steps, max_new_tokens, remasking, temperature,
            ...); `seed` is an int, or None for one number from torch's global generator on the
            first process, which a repeated call reads back from the files.

    Raises:
        MDMError: wrong arguments; an invalid prompt, named by its line or index; files that belong
            to another call.
        DistributedError: a process failed (the error holds its traceback and the batch's prompts)
            or fell silent.
    """
    start = time.monotonic()
    for name, value, allowed in (
        ("on_error", on_error, ("stop", "skip")),
        ("split", split, ("dynamic", "even")),
    ):
        if value not in allowed:
            raise InvalidValueError(
                f"{name} must be {allowed[0]!r} or {allowed[1]!r}, got {value!r}"
            )
    batch_size = check_int("batch_size", batch_size, 1, 1 << 20, "batch_size=8")
    timeout = check_real("timeout", timeout, 0, low_open=True)
    model = _unwrapped(model)
    # What is wrong with the arguments is wrong on every process, so it is raised before they meet.
    bound = get_adapter(model, adapter)
    state = _state(bound)
    with Job(state.process_index, state.num_processes, timeout) as job, ExitStack() as stack:
        # errors that may occur on one machine only are raised in here, where the others hear of it
        path = check_source(prompts)
        output = (
            None
            if output_path is None
            else stack.enter_context(closing(Output(local_path(output_path))))
        )
        if output is not None and path is not None and output.path.resolve() == path.resolve():
            raise InvalidValueError(
                f"output_path is the prompt file itself, {path}; name another file"
            )
        options = _options(model, bound, tokenizer, generation_config, options)
        # --- the job: its options, the lanes that share weights, and what identifies its tokens
        shows = progress and job.rank == 0
        total = count_prompts(prompts) if shows else None
        bar = stack.enter_context(closing(tqdm(total=total, unit="prompt", disable=not shows)))
        lane = lane_of(model, job.rank, job.world)
        precision = _precision()
        special = {"add_special_tokens": add_special_tokens}
        told = fingerprint(
            model, options["schedule"], {**options, **special}, tokenizer, precision, len(lane) > 1
        )
        _compare_processes(
            job, {**told, "batch_size": batch_size, "on_error": on_error, "split": split}
        )
        # --- what earlier runs have done
        if extend and output is not None and job.rank == 0 and not overwrite:
            if path is None and iter(prompts) is prompts:
                raise InvalidTypeError(
                    "extend=True needs prompts that can be read twice, as a list"
                )
            output.extend(told, prompts)
        finished = _start(job, output, told, overwrite, force_resume)
        bar.initial = bar.n = finished.count
        job.tick = partial(_tick, bar, start) if shows else None
        # --- the work
        with _autocast(bound, precision), evaluating(model):
            worker = Worker(
                job=job,
                model=bound,
                # a plan replaces the schedule
                options={
                    **options,
                    "adapter": None,
                    **({} if options["plan"] is None else {"schedule": None}),
                },
                tokenizer=tokenizer,
                encoder=_encoder(bound, tokenizer, add_special_tokens, options, on_error),
                tickets=Tickets(job, lane, split == "even"),
                finished=finished,
                seed=told["seed"],
                batch_size=batch_size,
                group=(lambda length: 0) if batch_size == 1 else length_key(bound),
                writes=job.rank == lane[0],
            )
            count = (
                worker.check_complete(prompts)
                if finished.prompts is not None
                else worker.work(prompts, output)
            )
        # --- the end: merge or gather, and wait for the slowest before anything is closed
        records = _finish(job, output, told, count, worker)
        totals = {name: job.counted(name) for name in ("tokens", "nfe", "skipped")}
        if job.tick is not None:
            job.tick(job)
        job.leave()
        done = count if finished.prompts is not None else finished.count
        where = None if output is None else str(output.path)
        spent = time.monotonic() - start
        return DistributedOutput(
            records, count, done, seed=told["seed"], seconds=spent, output_path=where, **totals
        )


def _options(
    model: Any, bound: ModelAdapter, tokenizer: Any, config: Any, given: dict[str, Any]
) -> dict[str, Any]:
    """Return the options of `generate`, all resolved, so that no config can change them."""
    for name in given:
        if name not in STORED and name not in _ALSO:
            raise unknown_option(name, "generate_distributed has no option", (*STORED, *_ALSO))
    also = {name: given[name] for name in _ALSO if given.get(name) is not None}
    own = getattr(unwrap(model), "generation_config", None)
    options: dict[str, Any] = {**merge_options(given, config, own), **also}
    # Resolved once, here: a spec or a Hub id must not mean something else on another process.
    given_schedule = options["schedule"]
    options["schedule"] = (
        own_schedule(model, options["steps"])
        if given_schedule is None
        else schedule_for_steps(given_schedule, options["steps"])
    )
    # None as in jobs of versions that did not have it
    options["suppress_special_tokens"] = options["suppress_special_tokens"] or None
    if options["seed"] is not None:
        options["seed"] = check_int("seed", options["seed"], -(2**63), 2**64 - 1, "seed=0")
    # The model's own token comes first; the tokenizer is asked only where the model has none.
    if options["mask_token_id"] is None and bound.mask_token_id is None:
        options["mask_token_id"] = getattr(tokenizer, "mask_token_id", None)
    options["mask_token_id"] = check_mask_token(bound, options["mask_token_id"])
    new = options["max_new_tokens"]
    options["max_new_tokens"] = (
        None if new is None else check_int("max_new_tokens", new, 0, 1 << 20)
    )
    options["num_return_sequences"] = check_int(
        "num_return_sequences", options["num_return_sequences"], 1, 1 << 20
    )
    if options["plan"] is not None and torch.as_tensor(options["plan"]).ndim != 1:
        raise InvalidValueError(
            "plan must be one list of tokens per step for all prompts, such as plan=[1, 2, 5]"
        )
    return options


def _unwrapped(model: Any) -> Any:
    """Remove a wrapper that only serves gradients; a wrapper that gathers weights stays."""
    wrappers = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    return model.module if isinstance(model, wrappers) else model


def _state(bound: ModelAdapter) -> PartialState:
    accelerated = torch.cuda.is_available() or (
        hasattr(torch, "accelerator") and torch.accelerator.is_available()
    )
    # The device of the model decides, since accelerate would take a GPU that the model is not on.
    state = PartialState(
        cpu=bound.device.type == "cpu" if bound.device is not None else not accelerated
    )
    world = int(os.environ.get("WORLD_SIZE", 1))
    if state.num_processes == 1 and world > 1:
        raise DistributedError(
            f"this is one of {world} processes, but accelerate takes it for the only one; on "
            "machines without a GPU "
            "make PartialState(cpu=True), or Accelerator(cpu=True), before anything else of "
            "accelerate"
        )
    return state


def _precision() -> str:
    """Return the mixed precision of the accelerate config: "no", "fp16", "bf16" or "fp8"."""
    if AcceleratorState._shared_state:
        return str(AcceleratorState().mixed_precision)
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def _autocast(bound: ModelAdapter, precision: str) -> AbstractContextManager[Any]:
    types = {"fp16": torch.float16, "bf16": torch.bfloat16}
    if precision not in types:  # a model prepared for fp8 handles its precision by itself
        return nullcontext()
    return torch.autocast((bound.device or torch.device("cpu")).type, types[precision])


def _encoder(
    bound: ModelAdapter, tokenizer: Any, special: bool, options: dict[str, Any], on_error: str
) -> Encoder:
    return Encoder(
        tokenizer,
        special,
        bound.vocab_size,
        bound.max_length,
        options["max_new_tokens"] or 0,
        options["mask_token_id"],
        options["infill"],
        on_error == "skip",
    )


def _compare_processes(job: Job, told: dict[str, Any]) -> None:
    """Raise unless all processes want the same."""
    every = job.share("fingerprint", told)
    for rank, other in enumerate(every):
        if unlike := differences(every[0], other):
            text = unlike.replace(" was ", " is ").replace(
                ", now ", f" in process 0, and in process {rank} "
            )
            raise DistributedError(f"the processes were given different arguments: {text}")


def _start(
    job: Job, output: Output | None, told: dict[str, Any], overwrite: bool, force: bool
) -> Finished:
    """Return the seed and the finished work, as the main process finds them."""
    # Drawn on every process, so that their generators stay in step; the first one's counts.
    new_seed = check_seed(told["seed"], 1)[0]
    if job.rank == 0:
        finished = Finished()
        if output is not None:
            finished = output.start(told, overwrite, force, new_seed)
        else:
            told["seed"] = new_seed
        job.tell("state", {"seed": told["seed"], **finished.to_json()})
        return finished
    state = job.hear("state")
    told["seed"] = state["seed"]
    return Finished.from_json(state)


def _tick(bar: Any, start: float, job: Job) -> None:
    """Bring the progress bar up to date with all processes."""
    tokens = job.counted("tokens")
    bar.set_postfix_str(
        f"{tokens / max(1e-9, time.monotonic() - start):.0f} tokens/s, NFE {job.counted('nfe')}",
        False,
    )
    bar.update(job.counted("prompts") + bar.initial - bar.n)


def _finish(
    job: Job, output: Output | None, told: dict[str, Any], count: int, worker: Worker
) -> list[dict[str, Any]]:
    """Wait for all processes; merge on the main one, or gather the records on each."""
    counts = job.share("finished", count)
    if len(set(counts)) > 1:
        raise DistributedError(
            f"the processes read different numbers of prompts, {counts}; give all of them to each"
        )
    if output is None:
        records = gather_object(worker.records) if job.world > 1 else worker.records
        return sorted(records, key=lambda record: (record["index"], record.get("sample", 0)))
    if job.rank == 0:
        if worker.finished.prompts is None:
            output.finish(told, count)
        job.tell("merged", True)
    # The others wait until the output has its name, so that all may read it when the call returns.
    job.hear("merged")
    return []
