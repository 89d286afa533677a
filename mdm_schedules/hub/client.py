"""Talking to the Hub: its client, new attempts where they are safe, and its errors in one line."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from mdm_schedules._version import __version__
from mdm_schedules.checks import shown
from mdm_schedules.errors import (
    InvalidTypeError,
    InvalidValueError,
    MDMError,
    MissingFileError,
    StorageError,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PAUSES_SECONDS = (0.5, 2.0)  # before the second and the third attempt
PATIENCE_SECONDS = 6.0  # after which nothing is tried again
LOGIN = "log in with `hf auth login`, set HF_TOKEN, or pass token="
# the options of every from_pretrained that say where files come from: of a whole repository, and
# with the folder in it
SNAPSHOT = ("revision", "cache_dir", "token", "local_files_only", "force_download")
DOWNLOAD = (*SNAPSHOT, "subfolder")
# before huggingface_hub 1, and after: recognised by module, to import none of them
_HTTP_LIBRARIES = ("requests", "urllib3", "httpx", "httpx2", "httpcore")
T = TypeVar("T")


def download_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that say where files come from."""
    return {key: options[key] for key in DOWNLOAD if options.get(key) is not None}


def client(token: str | bool | None = None) -> HfApi:
    """huggingface_hub's client, which says who calls."""
    from huggingface_hub import HfApi

    if token is not None and not isinstance(token, str | bool):
        raise InvalidTypeError(
            f"token must be text, True, False or None, got a {type(token).__name__}"
        )
    return HfApi(token=token, library_name="mdm-schedules", library_version=__version__)


def writing_client(token: str | bool | None = None) -> HfApi:
    """The same where there is a token to write with.

    Raises:
        StorageError: there is none.
    """
    from huggingface_hub import get_token

    api = client(token)
    if token is False or not (isinstance(token, str) or get_token()):
        raise StorageError(
            "pushing needs a Hub token with write permission: log in with `hf auth login`, set "
            "HF_TOKEN, or pass token="
        )
    return api


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out huggingface_hub's own lines about each of its attempts, in this thread.

    One line of ours reports the trouble at the end.
    """
    # Filters, not levels: another thread's lines still come through.
    if logging.getLogger("huggingface_hub").getEffectiveLevel() < logging.WARNING:
        yield  # the user has asked to see more
        return
    here = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != here

    loggers = [
        logging.getLogger(f"huggingface_hub.{name}") for name in ("file_download", "utils._http")
    ]
    for logger in loggers:
        logger.addFilter(others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(others)


def call(
    ask: Callable[[], T],
    repo_id: str,
    *,
    revision: str | None = None,
    file: str = "",
    writing: bool = False,
    retry: bool = True,
) -> T:
    """Return `ask()`; with `retry`, ask again where the connection or the server failed.

    The last error is raised as one of ours. Some calls of some versions of huggingface_hub try
    again themselves: what took long is not repeated.
    """
    start = time.monotonic()
    for pause in (*(PAUSES_SECONDS if retry else ()), None):
        try:
            with _quiet():
                return ask()
        # Ours already says what is wrong, and asking again would not change it.
        except MDMError:
            raise
        except Exception as error:
            if pause is None or not passing(error) or time.monotonic() - start > PATIENCE_SECONDS:
                raise explain(error, repo_id, revision, file, writing) from error
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error stands for, if any."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _root(error: BaseException) -> BaseException:
    """What lies behind huggingface_hub's 'it is not in the cache'."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _of_the_network(error: BaseException) -> bool:
    library = type(error).__module__.partition(".")[0]
    if library == "huggingface_hub":
        return False
    return library in _HTTP_LIBRARIES or isinstance(error, ConnectionError | TimeoutError)


def passing(error: BaseException) -> bool:
    """Whether asking again may help: a broken connection, a busy or failing server."""
    cause = _root(error)
    status = status_of(cause)
    return (
        status in (408, 429, 500, 502, 503, 504) if status is not None else _of_the_network(cause)
    )


def explain(
    error: Exception, repo_id: str, revision: str | None, file: str, writing: bool
) -> MDMError:
    """One clear line for what huggingface_hub raised, with what to do next."""
    from huggingface_hub import constants, errors

    cause = _root(error)
    status = status_of(cause)
    # The server's own words, where it has any, on one line and not too long.
    hub, at = constants.ENDPOINT, f"@{revision}" if revision else ""
    says = str(getattr(cause, "server_message", None) or "no reason given").replace("\n", " ")[:200]
    # --- what is wrong before any answer of the server
    if isinstance(cause, errors.HFValidationError):
        return InvalidValueError(f"{shown(repo_id)} is no Hub id: {shown(str(cause))}")
    if isinstance(cause, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        if writing or not file:
            return StorageError(
                f"HF_HUB_OFFLINE is set, and push and search need the Hub: unset it to reach {hub}"
            )
        return StorageError(
            f"{file} of {repo_id}{at} is not in the cache, and the Hub may not be asked "
            "(HF_HUB_OFFLINE or "
            "local_files_only); load it once online"
        )
    # --- answers with a class of their own; a gated repository is a kind of missing one, so it
    # comes first
    if isinstance(cause, errors.GatedRepoError):
        return StorageError(
            f"{repo_id} is gated: accept its terms at {hub}/{repo_id}, then {LOGIN}"
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return StorageError(
            f"{repo_id} has no branch, tag or commit {revision!r}; see {hub}/{repo_id}/commits/main"
        )
    if isinstance(cause, errors.EntryNotFoundError):
        return MissingFileError(
            f"{repo_id}{at} holds no {file or 'such file'}; see {hub}/{repo_id}/tree/main"
        )
    if (
        isinstance(cause, errors.RepositoryNotFoundError | errors.LocalTokenNotFoundError)
        or status == 401
    ):
        if writing:
            return StorageError(
                f"the Hub does not accept your token for {repo_id}, or has no such "
                f"repository: {LOGIN}"
            )
        return StorageError(
            f"the Hub has no repository {repo_id}, or not for you: check the id; "
            f"if private, {LOGIN}"
        )
    # --- answers that are only a status
    if status == 403:
        way = (
            "use a token with write permission, your own namespace, or create_pr=True"
            if writing
            else LOGIN
        )
        return StorageError(f"your token has no permission for {repo_id} ({says}): {way}")
    if status == 409:
        return StorageError(
            f"the name {repo_id} is taken or busy ({says}): try again, or choose another name"
        )
    if status == 412:
        return StorageError(f"others commit to {repo_id} at the same time ({says}): push again")
    if status == 429:
        return StorageError(
            f"the Hub asks for fewer requests ({says}): wait a few minutes, and {LOGIN}"
        )
    if status is not None:
        later = "try again later" if status >= 500 else f"see {hub}/{repo_id}"
        return StorageError(f"the Hub answered {status} for {repo_id} ({says}): {later}")
    detail = f"{type(cause).__name__}: {shown(str(cause))}"
    if _of_the_network(cause):
        repeat = (
            "; all of it has arrived or nothing, so look there before you push again"
            if writing
            else ""
        )
        return StorageError(
            f"the connection to {hub} failed ({detail}): check the network, try again{repeat}"
        )
    return StorageError(f"{repo_id}: {detail}")
