"""Options that other samplers have and this one has not: for each name whose it is, and why.

Names that mean an option of ours stand with that option, in the table of options.
"""

from __future__ import annotations

_TEMPERATURE = "whether tokens are drawn is said by temperature: 0 takes the most probable token"
_LENGTH = "the answer's length is max_new_tokens, without the prompt"
_ORDER = "it needs text from left to right, and tokens are written in any order here"
_PENALTY = "it needs text from left to right; logits_processor= can change the logits"
_STOP = "an answer ends at eos_token_id=[...], or is cut in its text afterwards"
_POSITION = "noise on the order is had by remasking='random', or a policy object"
_IMAGE = "this sampler writes tokens, no images"
_MANY = "mdm_schedules.generate_distributed takes a list of prompts and a batch_size"
_NOTHING = "the output always holds them where they exist: sequences, plan, nfe, revealed_in"

#: name -> (whose it is, why there is none, or what to do)
NO_MEANING: dict[str, tuple[str, str]] = {
    # transformers
    "do_sample": ("transformers", _TEMPERATURE),
    "max_length": ("transformers", _LENGTH),
    "min_length": ("transformers", _LENGTH),
    "min_new_tokens": ("transformers", _LENGTH),
    "num_beams": ("transformers", f"beam search: {_ORDER}; see num_return_sequences"),
    "num_beam_groups": ("transformers", f"beam search: {_ORDER}; see num_return_sequences"),
    "early_stopping": ("transformers", f"beam search: {_ORDER}"),
    "length_penalty": ("transformers", f"beam search: {_ORDER}"),
    "diversity_penalty": ("transformers", f"beam search: {_ORDER}"),
    "repetition_penalty": ("transformers", _PENALTY),
    "no_repeat_ngram_size": ("transformers", _PENALTY),
    "penalty_alpha": ("transformers", _PENALTY),
    "exponential_decay_length_penalty": ("transformers", _PENALTY),
    "forced_bos_token_id": ("transformers", "put the token into the prompt"),
    "forced_eos_token_id": ("transformers", "put the token behind the masks of the prompt"),
    "force_words_ids": ("transformers", "put the words into the prompt, among its masks"),
    "prefix_allowed_tokens_fn": ("transformers", _PENALTY),
    "typical_p": ("transformers", "top_p, or a logits_processor, filters the tokens"),
    "min_p": ("transformers", "top_p, or a logits_processor, filters the tokens"),
    "epsilon_cutoff": ("transformers", "top_p, or a logits_processor, filters the tokens"),
    "eta_cutoff": ("transformers", "top_p, or a logits_processor, filters the tokens"),
    "stop_strings": ("transformers", _STOP),
    "max_time": ("transformers", "steps says how many forward passes there are"),
    "assistant_model": ("transformers", f"speculative decoding: {_ORDER}"),
    "prompt_lookup_num_tokens": ("transformers", f"speculative decoding: {_ORDER}"),
    "inputs_embeds": ("transformers", "prompts are token ids: generate(model, input_ids, ...)"),
    "decoder_input_ids": ("transformers", "prompts are token ids: generate(model, input_ids)"),
    "labels": ("transformers", "it is for training; mdm_schedules.tune finds a schedule"),
    "output_scores": ("transformers", _NOTHING),
    "output_logits": ("transformers", _NOTHING),
    "cache_implementation": ("transformers", "each pass reads the whole sequence; there is no key"),
    "custom_generate": ("transformers", "model.generate(custom_generate=mdm.generate) takes it"),
    "negative_prompt_ids": ("transformers", "guidance is against no prompt: cfg_scale"),
    # LLaDA, Dream, dLLM and their kin
    "alg_temp": ("Dream", _POSITION),
    "eps": ("Dream", "a schedule reveals the last token in the last pass, exactly"),
    "generation_tokens_hook_func": ("Dream", "callback= is called after each pass, to read"),
    "stochastic_transfer": ("dLLM", "remasking='ancestral' draws how many tokens a pass reveals"),
    "right_shift_logits": ("dLLM", "the model's adapter knows it; adapter= names another"),
    "begin_suppress_tokens": ("dLLM", "suppress_tokens hides tokens everywhere in the answer"),
    "cfg_keep_tokens": ("dLLM", "cfg_scale hides the whole prompt"),
    "confidence_eos_eot_inf": ("LLaDA", "suppress_special_tokens=True keeps EOS out of answers"),
    "logits_eos_inf": ("LLaDA", "suppress_special_tokens=True keeps EOS out of answers"),
    "dual_cache": ("Fast-dLLM", "each pass reads the whole sequence"),
    "factor": ("Fast-dLLM", "commit='factor(1.0)' is that rule here"),
    "kl_threshold": ("KLASS", "commit='klass(confidence=0.6, kl=0.01)' is that rule here"),
    "kl_history_length": ("KLASS", "commit='klass(history=2)' is that rule here"),
    "minimal_topk": ("LLaDA2", "steps says how many passes a block gets"),
    "sampler": ("MDLM", "remasking='ancestral' is the sampler of MDLM's paper"),
    "predictor": ("MDLM", "remasking='ancestral' is the sampler of MDLM's paper"),
    # diffusers
    "negative_prompt": ("diffusers", "guidance is against no prompt: cfg_scale"),
    "callback_on_step_end_tensor_inputs": ("diffusers", "callback= is given a StepInfo"),
    "output_type": ("diffusers", "out.sequences are tokens, out.texts(tokenizer) text"),
    "latents": ("diffusers", _IMAGE),
    "eta": ("diffusers", _IMAGE),
    "height": ("diffusers", _IMAGE),
    "width": ("diffusers", _IMAGE),
    "strength": ("diffusers", "mask the part to be written again in the prompt, and infill"),
    "timesteps": ("diffusers", "plan= gives the tokens of each pass, steps their number"),
    "sigmas": ("diffusers", "plan= gives the tokens of each pass, steps their number"),
    # servers and harnesses
    "stop": ("vLLM", _STOP),
    "until": ("lm-eval", _STOP),
    "ignore_eos": ("vLLM", "rows end early only where eos_token_id is given"),
    "logprobs": ("vLLM", _NOTHING),
    "frequency_penalty": ("vLLM", _PENALTY),
    "presence_penalty": ("vLLM", _PENALTY),
    "best_of": ("vLLM", "num_return_sequences gives several answers; choose among them"),
    "skip_special_tokens": ("vLLM", "it is for out.texts(tokenizer, skip_special_tokens=...)"),
    "batch_size": ("lm-eval", _MANY),
    "num_workers": ("torch", _MANY),
    "device": ("torch", "prompts go to where the model is: model.to(device)"),
    "dtype": ("torch", "load the model in it: from_pretrained(..., dtype=...)"),
    "torch_dtype": ("torch", "load the model in it: from_pretrained(..., dtype=...)"),
}

#: values of `remasking` elsewhere -> (whose, ours)
POLICY_NAMES: dict[str, tuple[str, str]] = {
    "maskgit_plus": ("Dream", "low_confidence"),
    "topk_margin": ("Dream", "margin"),
    "origin": ("Dream", "ancestral"),
    "confidence": ("MaskGIT", "low_confidence"),
    "prob": ("MaskGIT", "low_confidence"),
    "max_prob": ("MaskGIT", "low_confidence"),
    "top_prob_margin": ("dInfer", "margin"),
    "topk": ("MaskGIT", "low_confidence"),
    "neg_entropy": ("Open-dLLM", "entropy"),
    "ddpm": ("MDLM", "ancestral"),
    "ddpm_cache": ("MDLM", "ancestral"),
    "autoregressive": ("AR models", "left_to_right"),
    "uniform": ("MDLM", "random"),
}

#: what other samplers call the prompt
PROMPT_NAMES = ("inputs", "prompt", "prompts", "text", "texts", "x", "idx", "tokens", "messages")
