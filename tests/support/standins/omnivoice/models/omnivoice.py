"""The generation loop over two codebooks of a toy in place of the model; counts are OmniVoice's."""

import math
from dataclasses import dataclass

import torch

CODEBOOKS, V, MASK = 2, 12, 11


@dataclass
class OmniVoiceGenerationConfig:
    num_step: int = 32
    t_shift: float = 0.1


def _get_time_steps(t_start=0.0, t_end=1.0, num_step=10, t_shift=1.0, device="cpu"):
    times = torch.linspace(t_start, t_end, num_step + 1).to(device)
    return t_shift * times / (1 + (t_shift - 1) * times)


class OmniVoice:
    def __init__(self):
        self.passes = []

    def generate(self, lengths, generation_config=None, **kwargs):
        return self._generate_iterative(
            lengths, generation_config or OmniVoiceGenerationConfig(**kwargs)
        )

    def _generate_iterative(self, task, gen_config):
        steps = gen_config.num_step
        times = _get_time_steps(
            t_start=0.0, t_end=1.0, num_step=steps, t_shift=gen_config.t_shift
        ).tolist()
        plans = []
        for length in task:
            total = left = length * CODEBOOKS
            plan = []
            for step in range(steps):
                last = step == steps - 1
                share = total * (times[step + 1] - times[step])
                count = left if last else min(math.ceil(share), left)
                plan.append(int(count))
                left -= int(count)
            plans.append(plan)
        tokens = [torch.full((CODEBOOKS * length,), MASK) for length in task]
        self.passes.append([0] * len(task))
        for step in range(steps):
            for item, row in enumerate(tokens):
                if plans[item][step] <= 0:
                    continue
                self.passes[-1][item] += 1
                # of the tokens that are there, so that the order of filling matters
                generator = torch.Generator().manual_seed(
                    int((row * torch.arange(1, len(row) + 1)).sum())
                )
                logits = torch.randn(len(row), V - 1, generator=generator)
                score, token = logits.log_softmax(-1).max(-1)
                score = score.masked_fill(row != MASK, -torch.inf)
                best = score.topk(plans[item][step]).indices
                row[best] = token[best]
        self.plans = plans
        return tokens
