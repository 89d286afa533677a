"""The file that one process appends to, locked as long as it does."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from mdm_schedules.errors import StorageError


class Shard:
    """The file that one process appends its finished batches to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise StorageError(
                f"cannot write {path}: {error.strerror or error}; on several machines output_path "
                "must lie on a shared "
                "disk"
            ) from error
        if not lock_file(self.handle):
            os.close(self.handle)
            raise StorageError(f"another process writes to {path}; wait for it, or end it")

    def append(self, window: int, digest: str, records: list[dict[str, Any]]) -> None:
        """Write one batch, and see it to the disk."""
        closing = {"batch": {"window": window, "digest": digest, "records": len(records)}}
        data = "".join(json.dumps(line) + "\n" for line in (*records, closing)).encode()
        # The closing line says that the batch is whole; a reader drops records without one.
        good = os.fstat(self.handle).st_size
        try:
            rest = memoryview(data)
            while rest:
                # `write` may take a part only.
                rest = rest[os.write(self.handle, rest) :]
            os.fsync(self.handle)
        except OSError as error:
            with suppress(OSError):
                # Half a batch on a full disk would hide every later one from the reader.
                os.ftruncate(self.handle, good)
            raise StorageError(
                f"cannot write {self.path}: {error.strerror or error}; finished batches are kept, "
                "so make room and "
                "call again"
            ) from error

    def close(self) -> None:
        """Give the file free."""
        os.close(self.handle)


def lock_file(handle: int) -> bool:
    """Lock an open file until it is closed or its process ends; False if another process has it."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True  # not every system locks files
    return True
