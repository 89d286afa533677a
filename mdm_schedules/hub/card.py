"""The model card of a schedule repository: metadata for search, a table, the plots, and usage."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mdm_schedules.errors import FormatError, MDMError
from mdm_schedules.hub.catalog import Place
from mdm_schedules.hub.evaluation import HUB_ID, Evaluation, slug

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

TAG = "mask-schedule"
PLOT_FILE = "alpha.png"
BEGIN, END = "<!-- mdm-schedules: generated from here", "<!-- mdm-schedules: to here -->"


def write_card(
    old: str | None, repo_id: str, places: Sequence[Place], plots: Sequence[str]
) -> str | None:
    """The new README.md.

    Of one that is not ours the text stays as it is, and its metadata gets what the search asks for.
    None where that metadata cannot be read.

    Args:
        old: the README there is; what stands outside the generated part is kept, metadata of others
            too.
        repo_id: of the repository.
        places: all schedules in it.
        plots: the paths of their plots.
    """
    from huggingface_hub import ModelCard, ModelCardData

    # Three cases: no card, a card of ours (its marked part is written anew), and somebody else's
    # (only its metadata grows).
    if old is None or not old.strip():
        before, after, data = "", "", ModelCardData()
    elif BEGIN in old and END in old:
        try:
            data = ModelCardData(**ModelCard(old, ignore_metadata_errors=True).data.to_dict())
        except Exception as error:
            raise FormatError(
                f"the README.md of {repo_id} has broken metadata; mend it there: {error}"
            ) from None
        text = re.sub(r"\A\s*---\r?\n.*?\n---\r?\n", "", old, count=1, flags=re.DOTALL)
        before, after = text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
    else:
        return _tagged(old, repo_id, places)
    body = f"{BEGIN}; text outside is kept -->\n{_body(repo_id, places, plots)}\n{END}"
    return (
        f"---\n{_metadata(data, repo_id, places).to_yaml()}\n---\n{before}{body}{after.rstrip()}\n"
    )


_FRONT_MATTER = re.compile(r"\A\s*---\r?\n(.*?\n)?---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def _tagged(old: str, repo_id: str, places: Sequence[Place]) -> str | None:
    """Somebody's README with tags, models and scores in its metadata, added to what is there."""
    from huggingface_hub import ModelCard, ModelCardData

    try:
        data = ModelCardData(**ModelCard(old).data.to_dict())
        new = _metadata(data, repo_id, places)
    except Exception:  # of yaml and of huggingface_hub, for metadata of any shape
        return None
    # theirs wins where a key holds one value, and what library their files are for is theirs
    new.library_name = getattr(data, "library_name", None)
    for name in ("base_model", "model_name"):
        theirs = getattr(data, name, None)
        if theirs is not None:
            setattr(new, name, theirs)
    text = _FRONT_MATTER.sub("", old, count=1)
    return f"---\n{new.to_yaml()}\n---\n{text}"


def _metadata(old: ModelCardData, repo_id: str, places: Sequence[Place]) -> ModelCardData:
    from huggingface_hub import ModelCardData

    found = [place.evaluation for place in places if place.evaluation is not None]
    # Only Hub ids, because base_model in a card links to a repository.
    models = sorted(
        {evaluation.model for evaluation in found if HUB_ID.fullmatch(evaluation.model)}
    )
    tags = {TAG, "masked-diffusion", *(slug(evaluation.task) for evaluation in found)}
    tags |= {tag for tag in old.tags or () if isinstance(tag, str)}
    kept = dict(vars(old))
    if models:
        kept["base_model"] = models[0] if len(models) == 1 else models
    # of others
    results = [result for result in old.eval_results or () if _read_result(result) is None]
    results += [_result(evaluation) for evaluation in found]
    more = {"eval_results": results, "model_name": repo_id.split("/")[-1]} if results else {}
    return ModelCardData(**{**kept, "library_name": "mdm-schedules", "tags": sorted(tags), **more})


def _result(evaluation: Evaluation) -> EvalResult:
    from huggingface_hub import EvalResult

    # The Hub shows three fields; the others travel in metric_args, from where `_read_result` takes
    # them.
    rest = evaluation.to_json()
    for name in ("task", "metric", "value"):
        del rest[name]
    return EvalResult(
        task_type="text-generation",
        dataset_type=slug(evaluation.task),
        dataset_name=evaluation.task,
        metric_type=slug(evaluation.metric),
        metric_name=f"{evaluation.metric} ({evaluation.steps} steps)",
        metric_value=evaluation.value,
        metric_args={"metric": evaluation.metric, **rest},
    )


def read_results(card_data: Any) -> list[Evaluation]:
    """Our evaluations in a repository's metadata; anything else is passed over."""
    read = map(_read_result, getattr(card_data, "eval_results", None) or ())
    return [evaluation for evaluation in read if evaluation is not None]


def _read_result(result: Any) -> Evaluation | None:
    try:
        rest = {"task": result.dataset_name, "value": result.metric_value, **result.metric_args}
        return Evaluation.from_json(rest)
    except (AttributeError, TypeError, MDMError):
        return None


def _body(repo_id: str, places: Sequence[Place], plots: Sequence[str]) -> str:
    places = sorted(places, key=lambda place: place.path)
    lines = [
        f"# {repo_id.split('/')[-1]}",
        "",
        "Mask schedules for masked diffusion language models: how many tokens each forward pass "
        "reveals. The model "
        "does not change.",
        "",
        "```python",
        "import mdm_schedules as mdm",
        "",
        f'schedule = mdm.get_schedule("{repo_id}"{_choice(places)})',
    ]
    first = next((place.evaluation for place in places if place.evaluation is not None), None)
    if first is not None and HUB_ID.fullmatch(first.model):
        lines += [
            "model = mdm.AutoModelForMaskedDiffusion.from_pretrained("
            f'"{first.model}", schedule=schedule)'
        ]
    lines += ["```", ""]
    lines += [
        "| folder | schedule | model | task | steps | metric | value | linear | sampler |",
        "|" + " --- |" * 9,
    ]
    for place in places:
        lines.append("| " + " | ".join(_cell(cell) for cell in _row(place)) + " |")
    lines += [
        line
        for plot in sorted(plots)
        for line in ("", f"![{plot.rpartition('/')[0] or 'alpha'}]({plot})")
    ]
    return "\n".join(lines)


def _choice(places: Sequence[Place]) -> str:
    # `get_schedule(repo_id)` alone is enough there; else the example must say which one.
    if len(places) == 1 or any(place.path == "" for place in places):
        return ""
    evaluation = places[0].evaluation
    if evaluation is None:
        return f", subfolder={json.dumps(places[0].path)}"
    return f", task={json.dumps(evaluation.task)}, steps={evaluation.steps}"


def _row(place: Place) -> list[str]:
    row = [place.path or ".", f"`{place.schedule}`"]
    if (one := place.evaluation) is None:
        return row + [""] * 7
    sampler = ", ".join(f"{key}={json.dumps(value)}" for key, value in one.sampler.items())
    model = one.model + (f" @ {one.model_revision[:12]}" if one.model_revision else "")
    return [
        *row,
        model,
        one.task,
        str(one.steps),
        one.metric,
        one.score,
        one.baseline_score,
        sampler,
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
