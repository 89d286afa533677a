"""Python sources for train_code.py: which files, in which form, and which are held out.

Files come from the running interpreter's standard library and from the packages of
code_packages.txt, all under permissive licences, in a folder that pip fills:

    pip install --no-deps --target code_packages -r examples/training/code_packages.txt

Each is parsed and written again by `ast.unparse` without its docstrings, so that a small model sees
code alone, in one style.
"""

import ast
import sysconfig
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path

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


def package_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (relative POSIX path, path) of the files of the packages in a folder, in order."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    return ((name, folder / name) for name in names)


def read_files(names: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, str]]:
    """Yield (name, code), less what `EXCLUDED` names and what does not parse."""
    for name, path in names:
        if EXCLUDED.intersection(name.split("/")[:-1]) or path.stat().st_size > LARGEST_FILE:
            continue
        try:
            text = without_docstrings(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, RecursionError):
            continue
        if text:  # an empty __init__.py teaches nothing
            yield name, text + "\n"


def passages(text: str) -> set[tuple[str, ...]]:
    """Return what stands on each five lines in a row, without its indentation."""
    lines = [line.strip() for line in text.splitlines()]
    return set(zip(*(lines[place:] for place in range(5)), strict=False))


def held_out_library() -> dict[str, str]:
    """Return the held-out files of the standard library, name -> code."""
    return dict(read_files(one for one in library_files() if is_held_out(one[0])))


def training_files(packages: Path | None = None, most: int | None = None) -> Iterator[str]:
    """Yield the code of every file that is not held out, or of the first `most` of them.

    Packages carry copies of the standard library: a file that shares more than 2 % of its passages
    with a held-out one is left out.
    """
    hidden = set().union(*map(passages, held_out_library().values()))
    others = iter(()) if packages is None else package_files(packages)
    files = (one for one in chain(library_files(), others) if not is_held_out(one[0]))
    for _, text in islice(read_files(files), most):
        found = passages(text)
        if len(found & hidden) <= 0.02 * len(found):
            yield text
