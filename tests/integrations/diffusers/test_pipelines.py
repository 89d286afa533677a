"""Our schedulers in the pipelines of diffusers."""

import http.server
import json
import os
import subprocess
import sys
import textwrap
import threading
import zlib
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import (
    AmusedImg2ImgPipeline,
    AmusedInpaintPipeline,
    AmusedPipeline,
    AmusedScheduler,
    BlockRefinementScheduler,
    LLaDA2Pipeline,
)
from PIL import Image
from pipelines import TABLE, seeded

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidTypeError

OLD = tuple(map(int, diffusers.__version__.split(".")[:2])) < (0, 42)


@pytest.fixture(scope="module")
def amused(example, tmp_path_factory):
    pipe = example.tiny_amused(tmp_path_factory.mktemp("clip"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image_tokens(pipe, **inputs):
    return pipe("a cat", num_inference_steps=5, generator=seeded(), output_type="latent", **inputs)[
        0
    ]


def with_scheduler(cls, pipe, scheduler):
    new = cls(**{**pipe.components, "scheduler": scheduler})
    new.set_progress_bar_config(disable=True)
    return new


def picture(value):
    return Image.new("RGB", (16, 16), (value, 90, 200 - value))


# --- the pipelines of diffusers


@pytest.mark.parametrize(
    ("cls", "inputs"),
    [
        (AmusedPipeline, {}),
        (AmusedPipeline, {"temperature": 3, "guidance_scale": 1.0}),
        (AmusedImg2ImgPipeline, {"image": picture(30), "strength": 0.7}),
        (
            AmusedInpaintPipeline,
            {
                "image": picture(30),
                "mask_image": Image.linear_gradient("L").resize((16, 16)),
                "strength": 0.8,
            },
        ),
    ],
)
def test_amused_pipelines(amused, cls, inputs):
    theirs = with_scheduler(cls, amused, AmusedScheduler(mask_token_id=24))
    expected = image_tokens(theirs, **inputs)
    assert not (expected == 24).any()
    # at construction, and swapped in later
    ours = with_scheduler(cls, amused, mdm.MaskedDiffusionScheduler(24))
    assert torch.equal(image_tokens(ours, **inputs), expected)
    theirs.scheduler = mdm.MaskedDiffusionScheduler.from_config(theirs.scheduler.config)
    assert torch.equal(image_tokens(theirs, **inputs), expected)
    theirs.scheduler = mdm.MaskedDiffusionScheduler.from_config(
        theirs.scheduler.config, schedule="beta(a=0.9, b=0.3)"
    )
    other = image_tokens(theirs, **inputs)
    assert other.shape == expected.shape
    assert not (other == 24).any()
    assert not torch.equal(other, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 1.1, "editing_threshold": None},
        {"threshold": 0.3, "editing_threshold": 0.2},
        {"temperature": 0.8, "top_k": 20, "threshold": 0.3, "editing_threshold": 0.2},
    ],
)
def test_llada2_pipeline(text_model, settings):
    model, tokenizer = text_model
    ids = torch.randint(4, 46, (3, 5), generator=seeded())

    def run(scheduler):
        pipe = LLaDA2Pipeline(model=model, scheduler=scheduler, tokenizer=tokenizer)
        pipe.set_progress_bar_config(disable=True)
        common = {
            "input_ids": ids,
            "gen_length": 19,
            "num_inference_steps": 3,
            "generator": seeded(),
        }
        return pipe(**common, **settings)

    expected = run(BlockRefinementScheduler(block_length=8))
    got = run(
        mdm.BlockMaskedDiffusionScheduler.from_config(
            BlockRefinementScheduler(block_length=8).config
        )
    )
    assert torch.equal(got.sequences, expected.sequences)
    assert got.texts == expected.texts
    other = run(mdm.BlockMaskedDiffusionScheduler(8, schedule="beta(a=0.9, b=0.3)"))
    assert other.sequences.shape == (3, 19)


@pytest.mark.parametrize("schedule", ["sine", TABLE])
def test_a_pipeline_saved_with_our_scheduler(amused, text_model, schedule, tmp_path):
    pipe = with_scheduler(AmusedPipeline, amused, mdm.MaskedDiffusionScheduler(24, schedule))
    pipe.save_pretrained(tmp_path / "images")
    loaded = AmusedPipeline.from_pretrained(tmp_path / "images")
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is mdm.MaskedDiffusionScheduler
    assert loaded.scheduler.schedule == mdm.get_schedule(schedule)
    assert torch.equal(image_tokens(loaded), image_tokens(pipe))
    assert (
        mdm.MaskedDiffusionScheduler.from_pretrained(
            tmp_path / "images", subfolder="scheduler"
        ).schedule
        == loaded.scheduler.schedule
    )
    # over the scheduler of a saved pipeline
    amused.save_pretrained(tmp_path / "theirs")
    swapped = AmusedPipeline.from_pretrained(tmp_path / "theirs", scheduler=pipe.scheduler)
    assert swapped.scheduler is pipe.scheduler
    model, tokenizer = text_model
    LLaDA2Pipeline(
        model, mdm.BlockMaskedDiffusionScheduler(8, schedule=schedule), tokenizer
    ).save_pretrained(tmp_path / "text")
    # its tokenizer has to be given: LLaDA2Pipeline of 0.42 does not load it
    loaded = LLaDA2Pipeline.from_pretrained(tmp_path / "text", tokenizer=tokenizer)
    assert loaded.scheduler.schedule == mdm.get_schedule(schedule)


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the Hub that diffusers queries before it refuses."""

    folder: Path

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self.path.startswith("/api/models/"):
            files = [
                {"rfilename": str(f.relative_to(self.folder))}
                for f in self.folder.rglob("*")
                if f.is_file()
            ]
            body = json.dumps(
                {"id": "somebody/amused", "sha": "a" * 40, "siblings": files}
            ).encode()
        else:
            body = (self.folder / self.path.split("/resolve/")[1].split("/", 1)[1]).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("ETag", f'"{zlib.crc32(body):x}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.mark.slow
def test_which_ways_of_loading_work_in_a_new_process(amused, tmp_path):
    """A folder loads once our module is imported; from the Hub only the scheduler loads."""
    folder, cache = tmp_path / "repo", tmp_path / "cache"
    with_scheduler(AmusedPipeline, amused, mdm.MaskedDiffusionScheduler(24, TABLE)).save_pretrained(
        folder
    )
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (Hub,), {"folder": folder})
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = f"""
        from diffusers import AmusedPipeline

        def attempt(load, *arguments, **options):
            try:
                return repr(load(*arguments, **options))
            except ValueError as error:
                return str(error)

        def folder():
            return AmusedPipeline.from_pretrained({str(folder)!r}).scheduler.schedule

        before = attempt(folder)
        import mdm_schedules.integrations.diffusers
        from mdm_schedules import MaskedDiffusionScheduler

        hub = {{"cache_dir": {str(cache)!r}}}
        scheduler = MaskedDiffusionScheduler.from_pretrained("somebody/amused", subfolder="scheduler", **hub)
        for line in (before, attempt(folder), attempt(AmusedPipeline.from_pretrained, "somebody/amused", **hub)):
            print(line)
        print(repr(scheduler.schedule))
    """
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HUB_OFFLINE": "0",
        "no_proxy": "*",
    }
    try:
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(
            command, env={**os.environ, **settings}, capture_output=True, text=True, check=False
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    before, after, refused, schedule = done.stdout.strip().splitlines()
    # 0.39 imports what the file names
    assert (
        before == repr(TABLE)
        if OLD
        else "import mdm_schedules.integrations.diffusers before calling" in before
    )
    assert after == schedule == repr(TABLE)
    assert "scheduler/mdm_schedules.integrations.diffusers.py" in refused
    assert "does not exist in somebody/amused" in refused


def test_pipelines_of_continuous_latents_are_refused_before_their_first_pass():
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "block_out_channels": (8,),
    }
    unet = diffusers.UNet2DConditionModel(
        8, norm_num_groups=2, cross_attention_dim=8, layers_per_block=1, **blocks
    )
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(norm_num_groups=2),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    passes = []
    unet.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(InvalidTypeError, match="continuous latents"):
        pipe.scheduler = mdm.MaskedDiffusionScheduler.from_config(
            pipe.scheduler.config, schedule="sine"
        )
    pipe.scheduler = mdm.MaskedDiffusionScheduler(mask_token_id=5)
    with pytest.raises(InvalidTypeError, match="continuous latents"):
        pipe(prompt_embeds=torch.zeros(1, 4, 8), guidance_scale=1.0, num_inference_steps=2)
    flux = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=0, attention_head_dim=8, num_attention_heads=1,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    flux.register_forward_hook(lambda *_: passes.append(1))
    pipe = diffusers.FluxPipeline(
        mdm.MaskedDiffusionScheduler(5),
        diffusers.AutoencoderKL(latent_channels=4),
        None,
        None,
        None,
        None,
        flux,
    )
    with pytest.raises(InvalidTypeError, match="continuous latents"):
        pipe(
            prompt_embeds=torch.zeros(1, 4, 8),
            pooled_prompt_embeds=torch.zeros(1, 8),
            height=16,
            width=16,
            num_inference_steps=2,
        )
    assert not passes
