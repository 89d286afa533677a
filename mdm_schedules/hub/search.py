"""Find published schedules by the model, the task and the author."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

from mdm_schedules.checks import check_int
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.hub.card import TAG, read_results
from mdm_schedules.hub.client import call, client
from mdm_schedules.hub.evaluation import Evaluation, check_text, slug
from mdm_schedules.hub.repository import check_repo_id


@dataclass(frozen=True)
class FoundSchedule:
    """A repository of schedules: its id, its metadata, its downloads and likes."""

    repo_id: str
    base_models: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    tags: tuple[str, ...]
    downloads: int
    likes: int
    last_modified: str | None


def search_schedules(
    base_model: str | None = None,
    *,
    task: str | None = None,
    author: str | None = None,
    search: str | None = None,
    limit: int = 50,
    token: str | bool | None = None,
) -> list[FoundSchedule]:
    """The schedule repositories on the Hub that fit, in the Hub's order.

    `get_schedule(found.repo_id)` loads one.

    Args:
        base_model: Hub id of the model they were found for.
        task: for example "gsm8k".
        author: user or organisation.
        search: part of the repository's name.
        limit: at most so many, 1 to 1000.
        token: as huggingface_hub takes it.

    Raises:
        StorageError: the Hub cannot be asked.
    """
    for name, value in (("task", task), ("author", author), ("search", search)):
        if value is not None:
            check_text(name, value)
    limit = check_int("limit", limit, 1, 1000)
    tags = [TAG]
    if base_model is not None:
        try:
            tags.append(f"base_model:{check_repo_id(base_model)}")
        except InvalidValueError as error:
            raise InvalidValueError(f"base_model: {error}") from None
    if task is not None:
        tags.append(slug(task))
    wanted: Any = ["cardData", "downloads", "lastModified", "likes", "tags"]
    api = client(token)
    models = call(
        lambda: list(
            islice(
                api.list_models(
                    filter=tags, author=author, search=search, limit=limit, expand=wanted
                ),
                limit,
            )
        ),
        "the search",
    )
    return [_found(model) for model in models]


def _found(model: Any) -> FoundSchedule:
    base = getattr(model.card_data, "base_model", None)
    modified = model.last_modified
    return FoundSchedule(
        repo_id=model.id,
        base_models=tuple(
            text
            for text in ([base] if isinstance(base, str) else base or ())
            if isinstance(text, str)
        ),
        evaluations=tuple(read_results(model.card_data)),
        tags=tuple(model.tags or ()),
        downloads=model.downloads or 0,
        likes=model.likes or 0,
        last_modified=None if modified is None else modified.isoformat(),
    )
