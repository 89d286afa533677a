"""Jobs of several real processes (gloo) for the tests of `generate_distributed`.

The processes are forked from one that has done the imports. The functions here run in them, so they
are at the top level of a module that can be imported by name.
"""

import multiprocessing
import os
import random
import socket
import string
import time
import traceback
from multiprocessing import forkserver
from pathlib import Path

import torch
import transformers.models.esm.modeling_esm  # noqa: F401

import mdm_schedules as mdm
import mdm_schedules.integrations.accelerate
from mdm_schedules.demo import models as demo_models

_context = multiprocessing.get_context("forkserver")


def _start_server():
    """Start the server from which processes are forked, with this module imported."""
    _context.set_forkserver_preload([__name__])
    before = dict(os.environ)
    os.environ.update(
        PYTHONPATH=str(Path(__file__).parent), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1"
    )
    forkserver.ensure_running()
    os.environ.clear()
    os.environ.update(before)


OPTIONS = {"max_new_tokens": 12, "steps": 4, "temperature": 1.0, "remasking": "random", "seed": 5}


def load():
    """Load the shipped code model and its tokenizer."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    path = demo_models.path("code")
    return mdm.AutoModelForMaskedDiffusion.from_pretrained(path), AutoTokenizer.from_pretrained(
        path
    )


def ragged(count, seed=0):
    """Return texts of 0 to 60 letters."""
    source = random.Random(seed)
    return [
        "".join(source.choices(string.ascii_letters + " ()=", k=source.randrange(60)))
        for _ in range(count)
    ]


def call(prompts, **options):
    """Run `generate_distributed` with the shipped model; return its results without what varies."""
    model, tokenizer = load()
    out = mdm.generate_distributed(
        model, prompts, tokenizer=tokenizer, **{**OPTIONS, "timeout": 5, **options}
    )
    return {name: value for name, value in vars(out).items() if name != "seconds"}


def each(calls):
    """Make several calls in turn; return for each the result of `call`, or its error."""
    answers = []
    for function, args, options in calls:
        try:
            answers.append(function(*args, **options))
        except Exception as error:
            answers.append(error)
    return answers


def _process(rank, world, port, pipe, function, args, options):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world)
    )
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1"
    )
    try:
        answer = function(*args, **options)
    except Exception as error:
        answer = error
        error.told = traceback.format_exc()
    pipe.send(answer)
    pipe.close()


class Processes:
    """Runs `function(*args, **options)` in `world` processes of one job; rank 0 holds the store."""

    def __init__(self, world, function, *args, **options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        _start_server()
        self.pipes, self.processes = [], []
        for rank in range(world):
            mine, theirs = _context.Pipe(duplex=False)
            process = _context.Process(
                target=_process, args=(rank, world, port, theirs, function, args, options)
            )
            process.start()
            theirs.close()
            self.pipes.append(mine)
            self.processes.append(process)

    def answers(self, limit=120):
        """Return each process's result or error; None for a killed process."""
        end, answers = time.monotonic() + limit, []
        for pipe in self.pipes:
            if not pipe.poll(max(0, end - time.monotonic())):
                self.kill()
                raise TimeoutError(f"a process hangs; so far {answers}")
            try:
                answers.append(pipe.recv())
            except EOFError:
                answers.append(None)
        for process in self.processes:
            process.join(10)
        return answers

    def wait_for_prompts(self, folder):
        """Wait until all processes of a `slow_model` have begun to read their prompts."""
        end = time.monotonic() + 60
        while not all((folder / f"begun-{process.pid}").exists() for process in self.processes):
            assert time.monotonic() < end, "the processes do not begin"
            time.sleep(0.01)

    def kill(self, rank=None):
        """Send SIGKILL to one process, or to all."""
        for process in self.processes if rank is None else [self.processes[rank]]:
            process.kill()


def run(world, function, *args, **options):
    """Return the answers of all processes."""
    return Processes(world, function, *args, **options).answers()


# --- what some tests run in the processes


def different_arguments(**by_rank):
    """Give each process options of its own."""
    rank = int(os.environ["RANK"])
    return call(ragged(4), **{name: values[rank] for name, values in by_rank.items()})


def different_prompts():
    """Give each process prompts of its own."""
    return call(ragged(20, seed=int(os.environ["RANK"])))


def file_on_one_machine(path):
    """Pass a file that process 0 does not find but another one does."""
    return call(path if os.environ["RANK"] == "1" else f"{path}.gone")


def failing(rank, marker, **options):
    """Run a model that raises in process `rank` at a batch with `marker`.

    The model is slow in the other processes, so that this one gets there.
    """

    def model(tokens):
        if int(os.environ["RANK"]) != rank:
            time.sleep(0.1)
        elif (tokens == marker).any():
            raise ZeroDivisionError("as the test wants it")
        return torch.zeros(*tokens.shape, 20)

    prompts = [[n % 10 + 2] for n in range(40)]
    return mdm.generate_distributed(
        model,
        prompts,
        mask_token_id=0,
        suppress_tokens=[1],
        max_new_tokens=2,
        timeout=5,
        batch_size=2,
        **options,
    )


def slow_model(path, count, seconds, **options):
    """Run a slow function as model, for processes that are to be killed.

    Its logits look random.
    """

    def model(tokens):
        time.sleep(seconds)
        return torch.sin(
            tokens[..., None] * 7.0 + torch.arange(30) + torch.arange(tokens.shape[1])[:, None]
        )

    def prompts():
        (Path(path).parent / f"begun-{os.getpid()}").touch()
        for n in range(count):
            yield [n % 23 + 3] * (1 + n % 3)

    settings = {
        "mask_token_id": 0,
        "max_new_tokens": 4,
        "steps": 2,
        "temperature": 1.0,
        "seed": 1,
        "batch_size": 3,
    }
    return mdm.generate_distributed(
        model,
        prompts(),
        output_path=path,
        timeout=3,
        **{**settings, **options},
    )


def own_stream(tmp):
    """Pass a generator, which each process reads by itself, and leave the shard folder alone."""
    return call(
        iter([{"prompt": text, "id": f"p{n}"} for n, text in enumerate(ragged(11))]),
        output_path=Path(tmp),
    )


def on_a_small_disk(size, path, count):
    """Run `slow_model` with files limited to `size` bytes, then without a limit."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    (first,) = each([(slow_model, (path, count, 0), {})])
    left = sorted(file.name for file in Path(f"{path}.shards").iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return first, left, slow_model(path, count, 0)


def spread(kind, prompts, **options):
    """Return records of the shipped model with its weights sharded over processes, and whole."""
    from accelerate import PartialState
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    world = PartialState(cpu=True).num_processes
    whole = call(prompts, **options)
    if kind == "tp_plan":
        layer = "esm.encoder.layer.*"
        names = {f"{layer}.intermediate.dense": "colwise", f"{layer}.output.dense": "rowwise"}
        model = mdm.AutoModelForMaskedDiffusion.from_pretrained(
            demo_models.path("code"), tp_plan=names, tp_size=world
        )
        out = mdm.generate_distributed(
            model, prompts, tokenizer=load()[1], **{**OPTIONS, **options}
        )
        return whole["records"], out.records, whole["nfe"], out.nfe
    model, tokenizer = load()
    mesh = init_device_mesh("cpu", (world,))
    if kind == "lanes":
        mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("copy", "part"))["part"]
    for layer in model.esm.encoder.layer:
        if kind == "tensor":
            parallelize_module(
                layer,
                mesh,
                {"intermediate.dense": ColwiseParallel(), "output.dense": RowwiseParallel()},
            )
        else:
            fully_shard(layer, mesh=mesh)
    if kind != "tensor":
        fully_shard(model, mesh=mesh)
    out = mdm.generate_distributed(model, prompts, tokenizer=tokenizer, **{**OPTIONS, **options})
    return whole["records"], out.records, whole["nfe"], out.nfe
