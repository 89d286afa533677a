"""Trains the shipped masked diffusion model of 6x6 sudoku grids.

    nice -n 10 python examples/training/train_sudoku.py --out sudoku

The options' defaults are those of the shipped model. Training grids are exactly uniform over the 95
% of base grids that are not held out and over the names of their digits. At the end it measures how
often a grid sampled one token per step from 6 clues of a held-out grid is valid.
"""

import json

import numpy as np
import torch
from mdm_training import build_model, common_parser, nll_bound, parameter_count, train
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import BertForMaskedLM, PreTrainedTokenizerFast

from mdm_schedules.demo import sudoku

MASK = 1
#: digit d is the token FIRST + d, so that "1" is token 2
FIRST = 1


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character; white space is ignored, and a blank cell "." is the mask itself."""
    vocab = {"[PAD]": 0, ".": MASK} | {str(digit): FIRST + digit for digit in range(1, 7)}
    # no unknown token: any other character is an error rather than a silent blank
    core = Tokenizer(models.WordLevel(vocab))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(r"\S"), "isolated"),
        ]
    )
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        mask_token=".",
        model_max_length=36,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def structured_positions(model: BertForMaskedLM) -> None:
    """Start each cell's position embedding as a sum of vectors for its row, column and box.

    The vectors are random, and training changes the embeddings as usual. The start says nothing
    about the rules. It only spares the model from discovering in 36 unrelated vectors which cells
    share a unit, which costs a long plateau at the beginning of training.
    """
    weight = model.bert.embeddings.position_embeddings.weight
    units = torch.randn(3, 6, weight.shape[1]) * model.config.initializer_range
    cell = torch.arange(36)
    with torch.no_grad():
        weight.copy_(
            units[0, cell // 6] + units[1, cell % 6] + units[2, cell // 12 * 2 + cell % 6 // 3]
        )


@torch.no_grad()
def solve(
    model: BertForMaskedLM, prompts: Tensor, greedy: bool, generator: torch.Generator
) -> Tensor:
    """Fill ``prompts [B, 36]`` one cell per step.

    If ``greedy``, each step fills the blank cell whose best digit is the most probable with that
    digit. Otherwise it fills a random blank cell with a digit drawn from the model at temperature
    1.
    """
    ids = prompts.clone()
    rows = torch.arange(len(ids))
    for _ in range(int((ids == MASK).sum(1).max())):
        blank = ids == MASK
        logits = model(ids).logits
        logits[..., : FIRST + 1] = -torch.inf
        probs = logits.softmax(-1)
        if greedy:
            score, token = probs.max(-1)
        else:
            score = torch.rand(ids.shape, generator=generator)
            token = torch.multinomial(probs.flatten(0, 1), 1, generator=generator).view_as(ids)
        cell = score.masked_fill(~blank, -1).argmax(1)
        ids[rows, cell] = torch.where(blank.any(1), token[rows, cell], ids[rows, cell])
    return ids


def evaluate(model: BertForMaskedLM, grids: int, clues: int, seed: int) -> dict[str, float]:
    """Return valid fractions of both samplers and the likelihood bound, on held-out grids."""
    puzzles, solutions = sudoku.puzzles(grids, clues, seed)
    prompts = torch.from_numpy(np.where(puzzles > 0, puzzles + FIRST, MASK))
    generator = torch.Generator().manual_seed(seed)
    result: dict[str, float] = {"grids": grids, "clues": clues}
    for name, greedy in (("valid_greedy_low_confidence", True), ("valid_random_order_t1", False)):
        filled = (
            torch.cat(
                [solve(model, part, greedy, generator) for part in prompts.split(250)]
            ).numpy()
            - FIRST
        )
        kept = ((puzzles == 0) | (puzzles == filled)).all(1)
        result[name] = float((sudoku.is_valid(filled) & kept).mean())
    mean, error = nll_bound(model, torch.from_numpy(solutions + FIRST), MASK, draws=8, seed=seed)
    return result | {"nll_nats_per_token": mean, "nll_standard_error": error}


def main() -> None:
    parser = common_parser(
        __doc__, steps=9000, batch=64, lr=1e-3, hidden=128, layers=5, heads=4, ffn=512
    )
    parser.add_argument("--clues", type=int, default=6)
    parser.add_argument("--eval-grids", type=int, default=2000)
    parser.add_argument(
        "--eval-only", action="store_true", help="measure the model already in --out"
    )
    args = parser.parse_args()
    if args.smoke:
        args.steps, args.batch, args.hidden, args.layers, args.ffn, args.eval_grids = (
            3,
            8,
            32,
            1,
            64,
            8,
        )
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = build_tokenizer()
    if args.eval_only:
        model = BertForMaskedLM.from_pretrained(args.out, dtype=torch.float32)
    else:
        model = build_model(args, tokenizer, length=36)
        structured_positions(model)
        print(f"{parameter_count(model)} parameters", flush=True)
        pool = sudoku.training_base_grids()
        rng = np.random.default_rng(args.seed)

        def next_batch() -> Tensor:
            return torch.from_numpy(
                sudoku.relabel(pool[rng.integers(len(pool), size=args.batch)], rng) + FIRST
            )

        model = train(model, args, MASK, next_batch, tokenizer)
    print(json.dumps(evaluate(model.eval(), args.eval_grids, args.clues, args.seed), indent=2))


if __name__ == "__main__":
    main()
