"""The whole sampler in plain torch: what `mdm_schedules.generate` does, without its cares.

It writes the tokens that `generate` writes (tests/examples/test_thirty_lines.py). What `generate`
has beside it: padding, many models, noise that does not depend on the batch, logits of the wanted
positions only, checks of everything, and options such as guidance, commits and ends of sequences.

    python examples/sampler_in_30_lines.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def make_plan(alpha: Callable[[torch.Tensor], torch.Tensor], masks: int, steps: int) -> list[int]:
    """Tokens to reveal in each step: the schedule's share of the masks, rounded cumulatively."""
    steps = min(steps, masks)
    times = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    shares = (masks * alpha(times) + 0.5).floor().long().tolist()
    plan, done = [], 0
    for later, share in zip(reversed(range(steps)), shares, strict=True):
        # at least one in this step, and one left for each later step
        total = min(max(share, done + 1), masks - later)
        plan.append(total - done)
        done = total
    return plan


# ----- The 30 lines -----


@torch.no_grad()
def fill(
    model: Callable[[torch.Tensor], torch.Tensor],  # tokens [B, L] -> logits [B, L, V]
    tokens_BL: torch.Tensor,  # the prompt, then a mask for each token of the answer
    mask: int,
    block_ends: Sequence[int],  # columns where blocks end
    plans: Sequence[Sequence[int]],  # for each block, tokens to reveal in each step
    order: str = "low_confidence",  # or "random"
    temperature: float = 0.0,
    noise: Callable[[str, int], torch.Tensor] | None = None,  # for what, step -> uniform [B, L]
) -> torch.Tensor:
    """Fill all masks, block by block from the left."""
    tokens_BL, noise = tokens_BL.clone(), noise or (lambda use, step: torch.rand(tokens_BL.shape))
    for block, (end, plan) in enumerate(zip(block_ends, plans, strict=True)):
        for step, count in enumerate(plan):
            masked_BL = tokens_BL == mask
            masked_BL[:, end:] = False  # later blocks wait
            logits_BLV = model(tokens_BL).double()
            probs_BLV = logits_BLV.softmax(-1)  # the mask token counts here, and is never drawn
            logits_BLV[..., mask] = -torch.inf

            # a token for each masked position: the best, or where the running sum passes a number
            if temperature == 0:
                drawn_BL = logits_BLV.argmax(-1)
            else:
                running_BLV = (logits_BLV / temperature).softmax(-1).cumsum(-1)
                target_BL = noise("token", (block << 32) + step) * running_BLV[..., -1]
                drawn_BL = torch.searchsorted(running_BLV, target_BL[..., None], right=True)[..., 0]

            # the positions to reveal: where the drawn token is most probable, or at random
            if order == "low_confidence":
                score_BL = probs_BLV.gather(-1, drawn_BL[..., None])[..., 0]
            else:
                score_BL = 1 - noise("position", 0)
            score_BL = score_BL.masked_fill(~masked_BL, -torch.inf)
            best_BR = score_BL.argsort(dim=-1, descending=True, stable=True)[:, :count]
            tokens_BL.scatter_(1, best_BR, drawn_BL.gather(1, best_BR))
    return tokens_BL


# ----- A run of it -----


def main() -> None:
    from transformers import BertConfig, BertForMaskedLM

    import mdm_schedules as mdm

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    model, mask = BertForMaskedLM(config).eval(), 59
    prompt_BL = torch.randint(0, 59, (2, 6))
    tokens_BL = torch.nn.functional.pad(prompt_BL, (0, 24), value=mask)

    # 24 tokens in two blocks of 12, each in 4 passes, fewer at first: MaskGIT's cosine schedule
    plan = make_plan(lambda t: 1 - torch.cos(torch.pi / 2 * t), masks=12, steps=4)
    ours = fill(lambda x: model(x).logits, tokens_BL, mask, [18, 30], [plan, plan])
    theirs = mdm.generate(
        model,
        prompt_BL,
        max_new_tokens=24,
        block_length=12,
        steps=8,
        schedule="cosine",
        mask_token_id=mask,
    )
    print("plan of each block:", plan)
    for row in ours:
        print("tokens:", *row[6:].tolist())
    print("as mdm_schedules.generate writes them:", torch.equal(ours, theirs.sequences))

    ends, plans = [18, 30], [plan, plan]
    for row in fill(lambda x: model(x).logits, tokens_BL, mask, ends, plans, "random", 1.0):
        print("in random order, at temperature 1:", *row[6:].tolist())


if __name__ == "__main__":
    main()
