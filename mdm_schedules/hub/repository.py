"""Schedules in Hub repositories, read through huggingface_hub's cache.

The Hub's errors become one clear line.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from mdm_schedules.checks import shown
from mdm_schedules.errors import FormatError, InvalidValueError, MissingFileError, StorageError
from mdm_schedules.files import MAX_JSON_BYTES, MAX_TENSOR_BYTES, inside, is_there, local_path
from mdm_schedules.hub.catalog import Folder, Source, check_subfolder, locate
from mdm_schedules.hub.client import call, client, passing
from mdm_schedules.hub.evaluation import HUB_ID, MODEL_ID
from mdm_schedules.hub.record import SCHEDULE_FILE, TENSOR_FILE, Record, load_record

HUB_PREFIX = "hub:"  # says that a name is a Hub id, whatever folders there are
logger = logging.getLogger("mdm_schedules")
_FILE_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,199}")
# After git's rules for branches and tags, since the revision becomes part of a URL and a path.
_REVISION = re.compile(r"(?!.*\.\.)[^\s/~^:?*\[\\\x00-\x1f]+(/[^\s/~^:?*\[\\\x00-\x1f]+)*")


def split_revision(spec: str) -> tuple[str, str | None]:
    """'user/repo@revision' as its two parts; without '@', the revision is None."""
    repo_id, at, revision = spec.partition("@")
    return repo_id, revision if at else None


def check_repo_id(repo_id: Any) -> str:
    """`repo_id` if it can be 'user/name'."""
    if (
        not isinstance(repo_id, str)
        or not HUB_ID.fullmatch(repo_id)
        # The cache joins user and name by "--", so two repositories could share one folder.
        or "--" in repo_id
        or ".." in repo_id
    ):
        raise InvalidValueError(f"a Hub id must be like 'user/my-schedule', got {shown(repo_id)}")
    return repo_id


def check_revision(revision: Any) -> str | None:
    """`revision` if it can be a branch, tag or commit."""
    if revision is not None and not (
        isinstance(revision, str) and len(revision) < 256 and _REVISION.fullmatch(revision)
    ):
        raise InvalidValueError(
            f"revision must be a branch, tag or commit such as 'main', got {shown(revision)}"
        )
    return revision  # type: ignore[no-any-return]


class HubRepo:
    """A repository on the Hub as a `Source`.

    Every file comes from the same commit and is downloaded when first asked for.
    """

    def __init__(
        self,
        repo_id: str,
        revision: str | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> None:
        self.name: str = repo_id
        self.revision = check_revision(revision)
        self.api, self.token = client(token), token
        self.cache_dir = None if cache_dir is None else local_path(cache_dir)
        self.local_files_only, self.force_download = local_files_only, force_download
        self.files: dict[str, Path] = {}
        self.commit: str | None = None
        self.refused = False  # a file was refused before it was downloaded

    def file(self, name: str) -> Path:
        if name not in self.files:
            self.files[name] = call(
                lambda: self._download(name), self.name, revision=self.revision, file=name
            )
        return self.files[name]

    def _download(self, name: str) -> Path:
        from huggingface_hub import _CACHED_NO_EXIST, constants, try_to_load_from_cache
        from huggingface_hub.errors import LocalEntryNotFoundError

        place: dict[str, Any] = {
            # The first file fixes the commit, so that all files are of one, whatever is pushed
            # meanwhile.
            "revision": self.commit or self.revision,
            "cache_dir": self.cache_dir,
        }
        cached = try_to_load_from_cache(self.name, name, **place)
        local, trouble = self.local_files_only or constants.HF_HUB_OFFLINE, None
        # A file of a known commit that is in the cache cannot change; everything else is asked for.
        if not local and not (self.commit is not None and isinstance(cached, str)):
            trouble = self._check_size(name)
        if self.force_download and (local or trouble is not None):
            raise trouble or InvalidValueError(
                "force_download needs the Hub; it is offline, by setting or argument"
            )
        # With the Hub in trouble the cache must do, if it has the file.
        flags: dict[str, Any] = {
            "local_files_only": local or trouble is not None,
            "force_download": self.force_download,
        }
        try:
            path = Path(self.api.hf_hub_download(self.name, name, **place, **flags))
        except LocalEntryNotFoundError as error:
            if cached is _CACHED_NO_EXIST:  # as the Hub said once
                raise MissingFileError(f"{self.name} holds no {name}") from None
            raise trouble or error from None
        # .../snapshots/<commit>/<name>
        self.commit = path.parents[name.count("/")].name
        return path

    def _check_size(self, name: str) -> Exception | None:
        """Refuse a file that is too large to be ours.

        Returns the trouble if the Hub cannot be asked just now.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        limit = MAX_TENSOR_BYTES if name.endswith(TENSOR_FILE) else MAX_JSON_BYTES
        try:
            url = hf_hub_url(
                self.name, name, revision=self.commit or self.revision, endpoint=self.api.endpoint
            )
            told = get_hf_file_metadata(url, token=self.token)
        # a refusal comes again from hf_hub_download, which remembers what is missing
        except Exception as error:
            return error if passing(error) else None
        size = told.size
        for kind, text in (("ETag", told.etag), ("commit", told.commit_hash)):
            if text is not None and not _FILE_NAME.fullmatch(text):  # the cache makes paths of them
                self.refused = True
                raise FormatError(
                    f"{name} of {self.name} comes with the {kind} {shown(text)}, which is no name "
                    "of a file; is HF_ENDPOINT a mirror that you trust?"
                )
        if size is not None and size > limit:
            self.refused = True
            raise FormatError(f"{name} of {self.name} has {size} bytes; at most {limit} are read")
        return None


def is_hub_id(path: Any) -> bool:
    """Whether `path` is text that names a repository rather than a file or folder here."""
    if not isinstance(path, str) or not HUB_ID.fullmatch(split_revision(path)[0]):
        return False
    return not os.path.exists(path)


def load(
    path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    task: str | None = None,
    steps: int | None = None,
    **download: Any,
) -> Record:
    """What `Schedule.from_pretrained` does; its docstring describes the arguments."""
    source: Source
    named = isinstance(path, str) and path.startswith(HUB_PREFIX)
    if named or is_hub_id(path):
        repo_id, written = split_revision(str(path).removeprefix(HUB_PREFIX))
        if revision is not None and written is not None:
            raise InvalidValueError(
                f"the revision is given twice, in {path!r} and as revision={revision!r}"
            )
        try:
            source = HubRepo(
                check_repo_id(repo_id), revision if written is None else written, **download
            )
            return _load_from(source, subfolder, task, steps)
        except StorageError as error:
            # "a/b" may be a folder or a repository: the message must speak of both.
            if written is None and not named and not isinstance(error, MissingFileError):
                raise StorageError(f"{error} (there is no folder {path!r} here either)") from None
            raise
    folder = local_path(path)
    if revision is not None:
        raise InvalidValueError(
            f"revision={revision!r} is for Hub ids such as 'user/repo'; {folder} is a local path"
        )
    # A schedule in the folder itself needs no index.
    if (subfolder, task, steps) == (None, None, None) and not (
        os.path.isdir(folder) and not is_there(folder / SCHEDULE_FILE)
    ):
        return load_record(folder)
    return _load_from(Folder(folder), subfolder, task, steps)


def _load_from(
    source: Source, subfolder: str | None, task: str | None, steps: int | None
) -> Record:
    folder = locate(source, subfolder, task, steps)
    prefix = f"{folder}/" if folder else ""
    try:
        return load_record(
            source.file(prefix + SCHEDULE_FILE), lambda: source.file(prefix + TENSOR_FILE)
        )
    except FormatError as error:
        # A broken file in the cache may be a broken download; the remedy is worth naming once.
        if not isinstance(source, HubRepo) or source.refused or source.force_download:
            raise
        raise FormatError(
            f"{error}; if the copy in the cache is damaged, force_download=True "
            "(pull --force-download) fetches it again"
        ) from error


def find_record(
    model: str | os.PathLike[str], *, subfolder: str = "", **options: Any
) -> Record | None:
    """The schedule beside a model, in its folder or its Hub repository; None if it carries none.

    Raises FormatError for a broken one. Where the repository cannot be asked, a warning is logged:
    whoever loads the model meets the same trouble.
    """
    # A model is found with or without a schedule beside it, so whatever is not there means "none";
    # only a file that is there and broken is an error.
    text = os.fspath(model)
    if os.path.isdir(text):
        if not is_there(Path(text, subfolder, SCHEDULE_FILE)):
            return None
        folder = Path(text)
        return load_record(
            inside(folder, f"{subfolder}/{SCHEDULE_FILE}" if subfolder else SCHEDULE_FILE),
            lambda: inside(folder, f"{subfolder}/{TENSOR_FILE}" if subfolder else TENSOR_FILE),
        )
    if not isinstance(text, str) or not MODEL_ID.fullmatch(text) or ".." in text or "--" in text:
        return None
    try:
        return _load_from(HubRepo(text, **options), check_subfolder(subfolder), None, None)
    except (MissingFileError, InvalidValueError):
        return None
    except StorageError as error:
        from huggingface_hub import constants

        if not (constants.HF_HUB_OFFLINE or options.get("local_files_only")):
            logger.warning(
                "could not ask %s for a schedule of its own, so linear is used: %s", text, error
            )
        return None
