"""Publish one HTML page as a static Space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdm_schedules.checks import shown
from mdm_schedules.errors import InvalidValueError
from mdm_schedules.hub.client import call, writing_client
from mdm_schedules.hub.evaluation import HUB_ID

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

_CARD = """---
title: Mask schedules
emoji: 🎭
colorFrom: blue
colorTo: yellow
sdk: static
pinned: false
license: apache-2.0
tags:
- mask-schedule
---
A page of [mdm-schedules](https://github.com/mdm-schedules/mdm-schedules), made by
`mdm-schedules explore --push {space}`.
"""


def push_page(page: str, space: str, *, token: str | bool | None = None) -> CommitInfo:
    """Make the static Space `space` if it is missing, and commit the page as its index.html.

    A README.md that is there stays as it is.

    Args:
        page: the HTML.
        space: "user/name".
        token: of the Hub; None is the one that you logged in with.

    Raises:
        InvalidValueError: `space` is no Hub id.
        StorageError: no token, or the Hub refused.
    """
    from huggingface_hub import CommitOperationAdd

    if not isinstance(space, str) or not HUB_ID.fullmatch(space):
        raise InvalidValueError(f"a Space must be like 'user/schedules', got {shown(space)}")
    api = writing_client(token)
    call(
        lambda: api.create_repo(space, repo_type="space", space_sdk="static", exist_ok=True),
        space,
        writing=True,
    )
    files = {"index.html": page}
    if not call(lambda: api.file_exists(space, "README.md", repo_type="space"), space):
        files["README.md"] = _CARD.format(space=space)
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=text.encode())
        for name, text in files.items()
    ]
    message = "Publish the page of mdm-schedules"

    def commit() -> CommitInfo:
        return api.create_commit(space, operations, commit_message=message, repo_type="space")

    return call(commit, space, writing=True)
