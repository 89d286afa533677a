"""A masked diffusion model for lm-eval: writes answers, and bounds the likelihood of given ones."""

from __future__ import annotations

import inspect
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from mdm_schedules.checks import check_int, check_real, shown
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.integrations.lm_eval.answers import KeptAnswers
from mdm_schedules.integrations.lm_eval.batching import Job, write
from mdm_schedules.integrations.lm_eval.cuts import Cuts
from mdm_schedules.integrations.lm_eval.info import model_info
from mdm_schedules.integrations.lm_eval.likelihood import Bound, Piece, bounds, pieces
from mdm_schedules.integrations.lm_eval.options import (
    check_options,
    load_tokenizer,
    parse_arguments,
    task_options,
)
from mdm_schedules.integrations.lm_eval.processes import SharedLM
from mdm_schedules.integrations.lm_eval.stops import cut, stop_tokens
from mdm_schedules.integrations.transformers.auto import AutoModelForMaskedDiffusion
from mdm_schedules.models import get_adapter, takes_padding
from mdm_schedules.sampling.prompt import check_mask_token


class MaskedDiffusionLM(SharedLM):
    """lm-eval's model `mdm_schedules`.

    Answers are written by `mdm_schedules.generate`. Options given here, or saved with the model,
    take precedence over those of the task; the task's `until` always ends the answer, and so does
    the end-of-sequence token.

    The log-likelihood of a text is the masked diffusion lower bound (arXiv 2502.09992, eq. 6) in
    nats: exact for one token, exact as a bound where all patterns of masks fit into `mc_num` passes
    (6 tokens for 128), and otherwise a Monte Carlo estimate, so that reported perplexities are
    noisy upper bounds. No schedule changes them. Texts longer than the model are scored in pieces
    of its length.

    A prompt or context that is too long loses its beginning, but for a beginning-of-sequence token;
    a warning counts them, and the results' `config` holds the counts as `truncated`.

    All results depend on the seed and on the request itself only, not on its neighbours, its place
    or the batch size. lm-eval's `use_cache` knows requests, not settings: use one file per
    schedule.

    Args:
        pretrained: folder or Hub id, or a loaded model or function from tokens [B, L] to logits [B,
            L, V].
        tokenizer: folder or Hub id, or a loaded tokenizer; by default that of the model.
        device: where to load to; by default a GPU if there is one. A loaded model stays where it
            is.
        dtype, revision, trust_remote_code: for loading.
        batch_size: sequences per forward pass.
        max_length: tokens that the model can read, by default as many as it says.
        seed: integer >= 0.
        mc_num: forward passes per likelihood.
        check_greedy: also write each text whose likelihood is asked, at temperature 0, and report
            whether it came out, as LAMBADA's accuracy needs. It costs up to one pass per
            token; without it the answer is always no.
        add_bos_token: begin every text with the beginning-of-sequence token. No other special token
            is ever added.
        adapter: name of the model adapter, by default chosen by the model.
        **options: of `generate`: schedule, steps, max_new_tokens, block_length, remasking,
            temperature, cfg_scale (which guides the likelihood too), ... With max_new_tokens=0 the
            masks in the prompt are filled, and the answer is the whole text.

    Raises:
        MDMError: an argument that is wrong or unknown, or a model without mask token, max_length or
            tokenizer.
    """

    def __init__(
        self,
        pretrained: Any,
        tokenizer: Any = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        batch_size: int | str = 1,
        max_length: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        seed: int = 0,
        mc_num: int = 128,
        check_greedy: bool = False,
        add_bos_token: bool = False,
        adapter: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        given = check_options(options, tuple(inspect.signature(MaskedDiffusionLM).parameters))
        size = (
            int(batch_size) if isinstance(batch_size, str) and batch_size.isdigit() else batch_size
        )
        self.batch_size = check_int("batch_size", size, 1, example="batch_size=8")
        self.seed = check_int("seed", seed, 0, 2**63 - 1)
        self.mc_num = check_int("mc_num", mc_num, 1)
        self.check_greedy, self.add_bos_token = bool(check_greedy), bool(add_bos_token)
        files = {"revision": revision, "trust_remote_code": trust_remote_code or None}
        files = {name: value for name, value in files.items() if value is not None}
        if isinstance(pretrained, str | os.PathLike):
            free = "cuda" if torch.cuda.is_available() else "cpu"
            place = device or (self._state.device if self._state else free)
            loaded: Any = AutoModelForMaskedDiffusion.from_pretrained(
                pretrained, schedule=given.pop("schedule", None), dtype=dtype, **files
            )
            self.model = loaded.to(place)
        else:
            self.model = pretrained
        self.tokenizer = load_tokenizer(tokenizer, pretrained, files)
        self.adapter = get_adapter(self.model, adapter)
        self._device = self.adapter.device or torch.device("cpu")
        saved = (
            getattr(getattr(self.model, "generation_config", None), "masked_diffusion", None) or {}
        )
        self.options = {name: value for name, value in {**saved, **given}.items() if name != "seed"}
        if adapter is not None:
            self.options["adapter"] = adapter
        mask = self.options.get("mask_token_id", self.adapter.mask_token_id)
        self.mask_token_id = check_mask_token(
            self.adapter, self.tokenizer.mask_token_id if mask is None else mask
        )
        self.options["mask_token_id"] = self.mask_token_id
        self.max_length = self._max_length(max_length)
        if self.add_bos_token and self.tokenizer.bos_token_id is None:
            raise InvalidValueError(
                "add_bos_token: the tokenizer has no beginning-of-sequence token"
            )
        self.passes: list[int] = []  # forward passes of each answer written so far
        # the same by (task, number of the document in it), which has several answers if it asks so
        self.passes_of: dict[tuple[str, int], list[int]] = {}
        self.cuts = Cuts(self.max_length, self.tokenizer.bos_token_id)
        self.truncated = self.cuts.counts
        self.kept: KeptAnswers | None = None  # see `keep_answers`

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> Any:
        """As lm-eval's, but with schedules that have commas in their brackets."""
        return cls.create_from_arg_obj(parse_arguments(arg_string), additional_config)

    def _max_length(self, given: int | None) -> int | None:
        known = self.adapter.max_length
        if given is not None:
            return check_int("max_length", given, 1, known)
        limit: int | None = getattr(self.tokenizer, "model_max_length", None)
        return limit if known is None and limit is not None and limit < 1 << 24 else known

    # --- text and tokens

    @property
    def eot_token_id(self) -> int | None:
        """The end-of-sequence token, if there is one."""
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The chat as the text of one prompt."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise InvalidValueError(
                "the tokenizer has no chat template; run without apply_chat_template"
            )
        return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids, with the beginning-of-sequence token where it is wanted and not there."""
        try:
            ids = list(self.tokenizer(string, add_special_tokens=False, **kwargs)["input_ids"])
        except Exception as error:  # of tokenizers, which raises no other class
            raise InvalidValueError(
                f"the tokenizer cannot read {shown(string)}: {error}"
            ) from error
        wanted = self.add_bos_token if add_special_tokens is None else add_special_tokens
        bos = self.tokenizer.bos_token_id
        return [bos, *ids] if wanted and bos is not None and ids[:1] != [bos] else ids

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context and continuation:
            # lm-eval's own way: a space at the end of the context goes to the continuation.
            before, target = self._encode_pair(context, continuation)
            if target:  # unless the context's last token swallows it
                return before, target
        return self.tok_encode(context), self.tok_encode(continuation, add_special_tokens=False)

    # --- answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """One text per request, without its stop string."""
        jobs: list[Job] = []
        stops, copies = [], Counter[str]()
        for context, settings in (request.args for request in requests):
            said, until = task_options(settings)
            options = {**said, **self.options}
            # A stop string that is one token ends a row early, which saves passes; `cut` handles
            # the others.
            if options["max_new_tokens"]:
                tokens = stop_tokens(self.tokenizer, until, self.adapter.vocab_size)
                ends = self._ends(options)
                options["eos_token_id"] = [*ends, *tokens] or None
            else:
                ends = []
                options.pop("eos_token_id", None)
            key = json.dumps([context, settings], sort_keys=True, default=str)
            jobs.append(
                Job(self._fit(self.tok_encode(context), options), self.seed + copies[key], options)
            )
            copies[key] += 1  # a task that asks the same several times wants several answers
            stops.append((until, ends))
        self.cuts.warn("prompts", len(jobs))
        answers = [""] * len(jobs)
        for i, ids, passes in self._write(jobs, disable_tqdm):
            self.passes.append(passes)
            asked = requests[i]
            document = (getattr(asked, "task_name", ""), getattr(asked, "doc_id", i))
            self.passes_of.setdefault(document, []).append(passes)
            until, ends = stops[i]
            ids = ids[:-1] if ids and ids[-1] in ends else ids
            answers[i] = cut(self.tokenizer, ids, until, special=jobs[i].whole)
            self.cache_hook.add_partial("generate_until", requests[i].args, answers[i])
        return answers

    def _ends(self, options: dict[str, Any]) -> list[int]:
        """The ids of what ends every answer."""
        ends = options.get("eos_token_id", self.eot_token_id)
        return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)

    def _fit(self, prompt: list[int], options: dict[str, Any]) -> list[int]:
        """The prompt, or its end if it is too long.

        What `generate` would refuse hours later is refused here.
        """
        new = check_int("max_new_tokens", options["max_new_tokens"], 0, example="max_new_tokens=64")
        masks = self.mask_token_id in prompt
        if (masks and options.get("infill") is False) or (not masks and not new):
            said = (
                "holds masks, which infill=False refuses"
                if masks
                else "has no masks, and max_new_tokens is 0"
            )
            raise InvalidValueError(f"the prompt {shown(self.tokenizer.decode(prompt))} {said}")
        if self.max_length is None or len(prompt) + new <= self.max_length:
            return prompt
        if new >= self.max_length:
            raise InvalidValueError(
                f"an answer of {new} tokens leaves no room for the prompt in a model that reads "
                f"{self.max_length}; "
                f"give max_new_tokens={self.max_length // 2}, or less"
            )
        return self.cuts.end(prompt, self.max_length - new, "prompts")

    def _write(self, jobs: list[Job], disable_tqdm: bool) -> Iterator[tuple[int, list[int], int]]:
        def run(part: list[Job]) -> Iterator[tuple[int, list[int], int]]:
            return write(self.adapter, part, self.batch_size, self.tokenizer)

        written = run(jobs) if self.kept is None else self.kept.through(jobs, run)
        return iter(
            tqdm(written, total=len(jobs), desc="answers", disable=disable_tqdm or self.rank != 0)
        )

    @property
    def _pad_token_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    # --- likelihoods

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Each continuation's bound in nats after its context, and whether it would be written.

        An empty continuation gives 0 and True.
        """
        asked = [request.args for request in requests]
        return self._scores(
            "loglikelihood", asked, [self._pair(*args) for args in asked], disable_tqdm
        )

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The bound in nats of each whole text, each token scored once."""
        asked = [request.args for request in requests]
        pairs = [self._pair("", text) for (text,) in asked]
        return [
            value for value, _ in self._scores("loglikelihood_rolling", asked, pairs, disable_tqdm)
        ]

    def score(self, text: str, context: str = "") -> float:
        """The bound in nats of one text after its context, outside lm-eval."""
        pairs = [self._pair(context, text)]
        return self._scores("loglikelihood", [(context, text)], pairs, disable_tqdm=True)[0][0]

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        """lm-eval's entry for pairs of tokens: ((context, continuation), ids, ids)."""
        pairs = [(list(context), list(target)) for _, context, target in requests]
        return self._scores(
            "loglikelihood",
            [args for args, _, _ in requests],
            pairs,
            kwargs.get("disable_tqdm", False),
        )

    def _scores(
        self,
        kind: str,
        asked: list[Any],
        pairs: list[tuple[list[int], list[int]]],
        disable_tqdm: bool,
    ) -> list[tuple[float, bool]]:
        # --- requests cut into pieces that the model can read; owner[piece] is the request
        owner, work = [], []
        for i, (context, target) in enumerate(pairs):
            if self.mask_token_id in target:
                raise InvalidValueError(
                    f"the text {shown(asked[i][-1])} holds the mask token, which has no likelihood"
                )
            if self.max_length is not None and context not in ([], [self.tokenizer.bos_token_id]):
                context = self.cuts.end(context, max(0, self.max_length - len(target)), "contexts")
            parts = pieces(context, target, self.max_length)
            work += parts
            owner += [i] * len(parts)
        self.cuts.warn("contexts", len(pairs))
        same = [True] * len(pairs)
        # --- whether greedy decoding writes the continuation: a generation each, so only when asked
        # for
        look = self.check_greedy and kind == "loglikelihood"
        for i, yes in zip(
            owner, self._greedy(work, disable_tqdm) if look else [False] * len(work), strict=True
        ):
            same[i] = same[i] and yes
        # --- the bounds, added up over the pieces of each request
        alike = self.batch_size == 1 or len({len(piece) for piece in work}) == 1
        scale = check_real("cfg_scale", self.options.get("cfg_scale", 0.0), 0)
        how = Bound(
            self.mask_token_id,
            self._pad_token_id,
            self.mc_num,
            self.seed,
            self.batch_size,
            alike or takes_padding(self.adapter),
            scale,
        )
        totals, left = [0.0] * len(pairs), Counter(owner)

        def run(part: list[Piece]) -> Iterator[tuple[int, float]]:
            return bounds(self.adapter, part, how)

        known = run(work) if self.kept is None else self.kept.through(work, run)
        quiet = disable_tqdm or self.rank != 0
        for piece, value in tqdm(known, total=len(work), desc="likelihoods", disable=quiet):
            i = owner[piece]
            totals[i] += value
            left[i] -= 1
            if not left[i]:
                answer = (totals[i], same[i]) if kind == "loglikelihood" else totals[i]
                self.cache_hook.add_partial(kind, asked[i], answer)
        return list(zip(totals, same, strict=True))

    def _greedy(self, work: list[Piece], disable_tqdm: bool) -> list[bool]:
        """Whether the model's options at temperature 0 write each target after its context."""
        options = {
            name: value
            for name, value in self.options.items()
            if name not in ("plan", "eos_token_id")
        }
        options["temperature"] = 0.0
        jobs = [
            Job(piece.context, self.seed, {**options, "max_new_tokens": len(piece.target)})
            for piece in work
        ]
        same = [False] * len(work)
        for i, answer, _ in self._write(jobs, disable_tqdm):
            same[i] = answer == work[i].target
        return same

    def get_model_info(self) -> dict[str, Any]:
        """All settings, for the `config` in lm-eval's results."""
        return model_info(self)
