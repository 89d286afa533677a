"""The tables' grid on any model that loads and any lm-eval task that generates; `tables.py --model` is its face."""

from __future__ import annotations

from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from tqdm import tqdm
from transformers import AutoTokenizer

import mdm_schedules as mdm
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.presets import Preset, Row


class MaskedDiffusionLM(LM):
    """A model and one way to sample from it, as lm-eval calls it. Only tasks that generate can be run.

    Args:
        options: for `mdm_schedules.generate`: schedule, steps, max_new_tokens, remasking, temperature, ...
        batch_size: prompts per call, padded on the left.
        seed: request i draws with seed + i, whatever the batches.
    """

    def __init__(self, model: Any, tokenizer: Any, options: dict[str, Any], batch_size: int = 1, seed: int = 0) -> None:
        super().__init__()
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.sequences_per_call, self.seed = batch_size, seed

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        answers = []
        size = self.sequences_per_call
        for begin in tqdm(range(0, len(requests), size), disable=disable_tqdm, leave=False, desc="prompts"):
            contexts, settings = zip(*(request.args for request in requests[begin : begin + size]), strict=True)
            batch = self.tokenizer(
                list(contexts), return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
            )
            out = mdm.generate(
                self.model,
                batch.input_ids,
                batch.attention_mask,
                mask_token_id=self.tokenizer.mask_token_id,
                seed=[self.seed + begin + i for i in range(len(contexts))],
                **self.options,
            )
            texts = self.tokenizer.batch_decode(out.sequences[:, out.prompt_length :], skip_special_tokens=True)
            for text, setting in zip(texts, settings, strict=True):
                until = setting.get("until", [])
                for stop in [until] if isinstance(until, str) else until:
                    text = text.split(stop)[0] if stop else text
                answers.append(text)
        return answers

    def loglikelihood(self, requests: Any) -> Any:
        raise InvalidValueError("this task asks for likelihoods; the grid runs tasks that generate, such as gsm8k")

    loglikelihood_rolling = loglikelihood

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path)

    def chat_template(self, chat_template: Any = False) -> str:
        return str(self.tokenizer.chat_template)

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )


def run_grid(args: Any, schedules: list[str], steps: list[int], gen_length: int) -> Preset:
    """Percent correct and its standard error for each schedule and number of steps; `args` are those of `tables.py`."""
    remote = {"trust_remote_code": True} if args.trust_remote_code else {}
    model = mdm.AutoModelForMaskedDiffusion.from_pretrained(args.model, dtype="auto", **remote).to(args.device)
    tokenizer = AutoTokenizer.from_pretrained(args.model, **remote)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tasks, rows = TaskManager(include_path=args.include_path), []
    for schedule in schedules:
        scores = []
        for count in steps:
            options = {
                "schedule": schedule,
                "steps": count,
                "max_new_tokens": gen_length,
                "block_length": args.block_length,
                "remasking": args.remasking,
                "temperature": args.temperature,
            }
            results = simple_evaluate(
                model=MaskedDiffusionLM(model, tokenizer, options, args.batch_size, args.seed),
                tasks=[args.task[0]],
                num_fewshot=args.num_fewshot,
                limit=args.limit,
                apply_chat_template=args.chat,
                task_manager=tasks,
                confirm_run_unsafe_code=args.allow_code_execution,
                log_samples=False,
                bootstrap_iters=1000,
            )
            scores.append(_score(results["results"], args.task[0], args.metric))
            print(f"{schedule}, {count} steps: {scores[-1][0]:.2f} ± {scores[-1][1]:.2f}", flush=True)
        means, errors = zip(*scores, strict=True)
        rows.append(Row(schedule, means, errors))
    name, source = f"{args.model}/{args.task[0]}", f"run here, {args.remasking}, limit {args.limit}"
    return Preset(name, args.model, args.task[0], gen_length, source, tuple(steps), tuple(rows))


def _score(results: dict[str, Any], task: str, metric: str | None) -> tuple[float, float]:
    """Percent; of several metrics, or filters of one, the one asked for ("exact_match", "exact_match,strict-match")."""
    figures = {
        key: value
        for key, value in results[task].items()
        if "_stderr" not in key and isinstance(value, int | float) and key != "sample_len"
    }
    chosen = [key for key in figures if metric is None or metric in (key, key.split(",")[0])]
    if not chosen:
        raise InvalidValueError(f"task {task} has no metric {metric!r}, but {', '.join(figures)}")
    error = results[task].get(chosen[0].replace(",", "_stderr,", 1))
    return 100 * float(figures[chosen[0]]), 100 * float(error) if isinstance(error, int | float) else float("nan")
