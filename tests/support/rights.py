"""Rights of files count in tests, also where root runs them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Inside, root is a user whom rights bind; whoever else runs the tests is one already.

    What it imports late, Python may then be unable to read: call once before what imports.
    """
    if os.getuid():
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@contextmanager
def folder_of_ordinary_user() -> Iterator[Path]:
    """A new folder that belongs to that user; pytest's own may be closed to others."""
    folder = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
    if not os.getuid():
        os.chown(folder, NOBODY, NOBODY)
    try:
        yield folder
    finally:
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(folder)
