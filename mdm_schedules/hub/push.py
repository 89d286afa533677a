"""Publish a schedule in one commit: its files, the repository's index, the card with its plot."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdm_schedules.checks import say_once
from mdm_schedules.errors import InvalidValueError, MissingExtraError
from mdm_schedules.hub.card import PLOT_FILE, write_card
from mdm_schedules.hub.catalog import INDEX_FILE, Place, check_subfolder, index_text, read_index
from mdm_schedules.hub.client import call, explain, status_of, writing_client
from mdm_schedules.hub.evaluation import MAX_TEXT, Evaluation, check_text, slug
from mdm_schedules.hub.record import TENSOR_FILE, Record, save_record
from mdm_schedules.hub.repository import HubRepo, check_repo_id, check_revision

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

RACES = 5  # commits of others that may come between our reading and our writing


def push_record(
    record: Record,
    repo_id: str,
    *,
    text: str,
    picture: Callable[[int], bytes],
    subfolder: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """`Schedule.push_to_hub`; see there.

    Args:
        record: the schedule, with what it scored.
        text: the schedule as text; where that is long, its name is listed instead.
        picture: steps -> a PNG for the card; may raise MissingExtraError.
        repo_id, subfolder, revision, private, token, commit_message, create_pr: as there.
    """
    # A bare name is a repository of the token's owner, which the Hub fills in.
    bare = isinstance(repo_id, str) and "/" not in repo_id
    check_repo_id(f"user/{repo_id}" if bare else repo_id)
    check_revision(revision)
    if create_pr and revision not in (None, "main"):
        raise InvalidValueError(
            f"a pull request goes to 'main'; leave out revision={revision!r} or create_pr=True"
        )
    if commit_message is not None:
        check_text("commit_message", commit_message)
    evaluation = record.evaluation
    if subfolder is not None:
        folder = check_subfolder(subfolder)
    else:
        folder = (
            ""
            if not isinstance(evaluation, Evaluation)
            else f"{slug(evaluation.task)}-{evaluation.steps}"
        )
    # Everything that can fail here does so before the Hub is asked for anything.
    files = _files(record, picture, folder)
    place = Place(folder, text if len(text) <= MAX_TEXT // 2 else record.name, evaluation)
    api = writing_client(token)
    made = call(
        lambda: api.create_repo(repo_id, private=private, exist_ok=True), repo_id, writing=True
    )
    # With the owner's name, where `repo_id` was bare.
    name = made.repo_id
    message = (
        commit_message
        or f"Add the schedule {place.schedule[:80]}{f' in {folder}' if folder else ''}"
    )
    options = {"revision": revision, "create_pr": create_pr, "commit_message": message}
    # the same push again changes nothing, so it may be repeated; a second pull request would be one
    # too many
    return call(
        lambda: _commit(api, HubRepo(name, revision, token=token), place, files, options),
        name,
        revision=revision,
        writing=True,
        retry=not create_pr,
    )


def _files(record: Record, picture: Callable[[int], bytes], folder: str) -> dict[str, bytes]:
    """The files of one schedule by their path in the repository.

    There is no plot where matplotlib is missing.
    """
    with tempfile.TemporaryDirectory() as temporary:
        save_record(record, temporary)
        with suppress(MissingExtraError):
            # Without matplotlib there is no picture, and the card does without.
            steps = 16 if record.evaluation is None else min(record.evaluation.steps, 1024)
            Path(temporary, PLOT_FILE).write_bytes(picture(steps))
        prefix = f"{folder}/" if folder else ""
        return {prefix + file.name: file.read_bytes() for file in sorted(Path(temporary).iterdir())}


def _commit(
    api: HfApi, repo: HubRepo, place: Place, files: dict[str, bytes], options: dict[str, Any]
) -> CommitInfo:
    last = Exception()
    for _ in range(RACES):
        # Read at one commit and write on top of that commit only: if somebody was faster, the Hub
        # answers 412 and we merge with what is there now.
        info = api.model_info(repo.name, revision=repo.revision)
        there = {sibling.rfilename for sibling in info.siblings or ()}
        head = HubRepo(repo.name, info.sha, token=repo.token)
        operations = _operations(head, place, files, there)
        try:
            done: CommitInfo = api.create_commit(
                repo.name, operations, parent_commit=info.sha, **options
            )
            return done
        except Exception as error:
            if status_of(error) != 412:  # 412: somebody else has committed since
                raise
            last = error
    raise explain(last, repo.name, repo.revision, "", True) from last


def _operations(head: HubRepo, place: Place, files: dict[str, bytes], there: set[str]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    # The index and the card describe the whole repository, so they are made from all its places.
    places = {one.path: one for one in read_index(head)} if INDEX_FILE in there else {}
    old = places.get(place.path)
    if (
        old is not None
        and old.evaluation is not None
        and place.evaluation is not None
        and old.evaluation.model != place.evaluation.model
    ):
        raise InvalidValueError(
            f"{head.name} already holds a schedule for {old.evaluation.model} in {place.path!r}; "
            "push to another "
            "repository, or with another subfolder"
        )
    places[place.path] = place
    prefix = f"{place.path}/" if place.path else ""
    # What the old schedule in this folder had and the new one has not: a table, a picture.
    gone = [
        prefix + name
        for name in (TENSOR_FILE, PLOT_FILE)
        if prefix + name in there and prefix + name not in files
    ]
    plots = [f"{one.path}/{PLOT_FILE}" if one.path else PLOT_FILE for one in places.values()]
    plots = [name for name in plots if name in files or (name in there and name not in gone)]
    # Somebody's README is never replaced, only added to.
    readme = (
        head.file("README.md").read_text(encoding="utf-8", errors="replace")
        if "README.md" in there
        else None
    )
    card = write_card(readme, head.name, list(places.values()), plots)
    if card is None:
        say_once(
            f"the README.md of {head.name} has metadata that cannot be read; it stays as it is, "
            "and search_schedules will not find the repository until its tags hold mask-schedule"
        )
    content = {**files, INDEX_FILE: index_text(list(places.values())).encode()}
    if card is not None:
        content["README.md"] = card.encode()
    added = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=data)
        for name, data in content.items()
    ]
    return [*added, *(CommitOperationDelete(path_in_repo=name) for name in gone)]
