"""Python sources for train_code.py: which files, in which form, and which are held out.

Files come from the running interpreter's standard library and from the installed packages that
`PACKAGES` names, all under permissive licences. Each is parsed and written again by `ast.unparse`
without its docstrings, so that a small model sees code alone, in one style.
"""

import ast
import sys
import sysconfig
from collections.abc import Iterator
from hashlib import blake2b
from importlib import metadata
from itertools import islice
from pathlib import Path

#: distribution -> licence, as its metadata states
PACKAGES = {
    "aiohttp": "Apache-2.0 AND MIT",
    "attrs": "MIT",
    "click": "BSD-3-Clause",
    "Jinja2": "BSD-3-Clause",
    "joblib": "BSD-3-Clause",
    "more-itertools": "MIT",
    "networkx": "BSD-3-Clause",
    "optuna": "MIT",
    "packaging": "Apache-2.0 OR BSD-2-Clause",
    "pluggy": "MIT",
    "pytest": "MIT",
    "requests": "Apache-2.0",
    "rich": "MIT",
    "scikit-learn": "BSD-3-Clause",
    "setuptools": "MIT",
    "SQLAlchemy": "MIT",
    "urllib3": "MIT",
}

#: folder names left out anywhere: tests, other people's code, or tables rather than code
EXCLUDED = {
    "__pycache__",
    "_vendor",
    "dist-packages",
    "encodings",
    "idlelib",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "turtledemo",
}
#: files and folders generated for one build, with the paths of the machine that built it
GENERATED = ("_sysconfigdata", "config-")
HELD_OUT_FRACTION = 0.05
LARGEST_FILE = 200_000  # bytes; larger ones are mostly tables


def is_held_out(name: str) -> bool:
    """Return whether the file of this relative POSIX path is in the held-out split."""
    digest = blake2b(name.encode(), digest_size=8, key=b"stdlib held-out 1").digest()
    return int.from_bytes(digest, "big") < HELD_OUT_FRACTION * 2**64


def without_docstrings(source: str) -> str:
    """Return the source without docstrings and comments, as `ast.unparse` writes it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        kept = [
            line
            for line in body
            if not (
                isinstance(line, ast.Expr)
                and isinstance(line.value, ast.Constant)
                and isinstance(line.value.value, str)
            )
        ]
        empty = [] if isinstance(node, ast.Module) else [ast.Pass()]
        node.body = kept or empty  # type: ignore[attr-defined]
    return ast.unparse(tree)


def library_files() -> Iterator[tuple[str, Path]]:
    """Yield (relative POSIX path, path) of the standard library's files, in order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for name in sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py")):
        if not any(part.startswith(GENERATED) for part in name.split("/")):
            yield name, root / name


def package_files() -> Iterator[tuple[str, Path]]:
    """Yield (relative POSIX path, path) of the packages' files, in order."""
    for package in PACKAGES:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            print(f"{package} is not installed, so nothing is learned from it", file=sys.stderr)
            continue
        for file in sorted(files, key=str):
            if file.suffix == ".py" and ".." not in file.parts:
                yield file.as_posix(), Path(str(file.locate()))


def read_files(names: Iterator[tuple[str, Path]]) -> dict[str, str]:
    """Return name -> code, less what `EXCLUDED` names and what does not parse."""
    texts = {}
    for name, path in names:
        if EXCLUDED.intersection(name.split("/")[:-1]) or path.stat().st_size > LARGEST_FILE:
            continue
        try:
            text = without_docstrings(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        if text:  # an empty __init__.py teaches nothing
            texts[name] = text + "\n"
    return texts


def held_out_library() -> dict[str, str]:
    """Return the held-out files of the standard library, name -> code."""
    return read_files((name, path) for name, path in library_files() if is_held_out(name))


def training_files(most: int | None = None) -> dict[str, str]:
    """Return every file that is not held out, or the first `most` of them, name -> code."""
    files = (*library_files(), *package_files())
    return read_files(islice((one for one in files if not is_held_out(one[0])), most))


def read_library() -> tuple[list[str], list[str]]:
    """Return the texts of the standard library's files as they are: training, and held out."""
    training: list[str] = []
    held_out: list[str] = []
    for name, path in library_files():
        if not EXCLUDED.intersection(name.split("/")[:-1]):
            text = path.read_text(encoding="utf-8", errors="replace")
            if text:
                (held_out if is_held_out(name) else training).append(text)
    return training, held_out
