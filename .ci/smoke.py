"""A minute's check of an installation: imports, plans, and generation with a small function."""

import sys

import torch

import mdm_schedules as mdm
from mdm_schedules.testing import check_schedule

VOCAB, MASK = 8, 7

for name in mdm.__all__:
    if name != "tune":  # needs an extra
        getattr(mdm, name)
schedule = mdm.get_schedule("beta(a=0.9, b=0.3)")
check_schedule(schedule)
plan = schedule.plan(num_tokens=12, steps=4)
table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
out = mdm.generate(
    lambda tokens: table[tokens],
    torch.tensor([[1, 2], [3, 4]]),
    schedule=schedule,
    steps=4,
    max_new_tokens=12,
    mask_token_id=MASK,
    seed=0,
)
if out.plan[0].tolist() != plan.tolist() or (out.sequences == MASK).any():
    raise SystemExit(f"plan {out.plan.tolist()}, sequences {out.sequences.tolist()}")
print(f"Python {sys.version.split()[0]}, torch {torch.__version__}: smoke test passed")
