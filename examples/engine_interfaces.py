"""Compare the interfaces that our bridges rely on with the engines' released wheels.

    python examples/engine_interfaces.py                     # the newest, fetched by pip
    python examples/engine_interfaces.py sglang==0.5.23      # a certain one, with what it needs
    python examples/engine_interfaces.py --wheel sglang-0.5.23-cp311-cp311-manylinux_2_34_x86_64.whl

The tests of the bridges run against stand-ins in tests/support/standins. This script reads the
sources in a wheel, without installing or importing it, and compares the arguments of each function
that a stand-in stands for. It exits with 1 where one is missing or takes other arguments.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

STANDINS = Path(__file__).resolve().parents[1] / "tests/support/standins"

RELEASED = ("sglang", "omnivoice")
# its release has no policies
PLUGIN = "git+https://github.com/vllm-project/dllm-plugin"

# for each package: files, and in each the functions, fields and names that matter
INTERFACES = {
    "sglang": {
        "sglang/srt/dllm/algorithm/__init__.py": ("algo_name_to_cls", "get_algorithm"),
        "sglang/srt/dllm/algorithm/base.py": (
            "DllmAlgorithm.__init__",
            "DllmAlgorithm.init_step_state",
            "DllmAlgorithm.max_steps",
            "DllmAlgorithm.step",
            "DllmAlgorithm.run",
            "DllmAlgorithm._run_sync",
            "DllmAlgorithm._run_fdfo",
        ),
        "sglang/srt/dllm/config.py": ("DllmConfig.__init__",),
    },
    "omnivoice": {
        "omnivoice/models/omnivoice.py": (
            "_get_time_steps",
            "OmniVoice._generate_iterative",
            "OmniVoiceGenerationConfig.num_step",
            "OmniVoiceGenerationConfig.t_shift",
        ),
    },
    "vllm-dllm-plugin": {
        "vllm_dllm_plugin/config.py": ("DRAFT_SIZE",),
        "vllm_dllm_plugin/remasking/base.py": (
            "RemaskingPolicy.apply",
            "RemaskStepResult.committed_token_ids",
            "RemaskStepResult.next_input_block",
        ),
    },
}


def signatures(source: str) -> dict[str, list[str] | None]:
    """Names that a module defines; of functions their arguments, None for anything else."""
    found: dict[str, list[str] | None] = {}

    def read(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef):
                given = node.args
                names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                found[prefix + node.name] = names
            elif isinstance(node, ast.ClassDef):
                read(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[prefix + node.target.id] = None
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        found[prefix + target.id] = None

    read(ast.parse(source).body, "")
    return found


def differences(package: str, wheel: Path) -> list[str]:
    """What a wheel has otherwise than the stand-in; arguments that it has besides are allowed."""
    wrong = []
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        for file, names in INTERFACES[package].items():
            if file not in held:
                wrong.append(f"{file}: missing")
                continue
            theirs = signatures(archive.read(file).decode())
            ours = signatures((STANDINS / file).read_text(encoding="utf-8"))
            for name in names:
                arguments = ours[name]
                if name not in theirs:
                    wrong.append(f"{file}: no {name}")
                elif arguments is not None and arguments != (theirs[name] or [])[: len(arguments)]:
                    wrong.append(f"{file}: {name} takes {theirs[name]}, not {arguments}")
    return wrong


def fetch(requirement: str, folder: Path) -> Path:
    """The wheel alone: as released for Python 3.11 on Linux, or built from git."""
    pip = [sys.executable, "-m", "pip"]
    if "git+" in requirement:
        command = [*pip, "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", requirement]
    else:
        command = [*pip, "download", "--quiet", "--no-deps", f"--dest={folder}"]
        command += ["--only-binary=:all:", "--python-version=3.11", requirement]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def main() -> int:
    """Compare, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("requirement", nargs="*", help="such as sglang==0.5.23 (default: all)")
    parser.add_argument("--wheel", type=Path, action="append", default=[], help="one already here")
    args = parser.parse_args()
    wanted = args.requirement or ([] if args.wheel else [*RELEASED, PLUGIN])
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        wheels = list(args.wheel)
        for number, requirement in enumerate(wanted):
            wheels.append(fetch(requirement, Path(folder) / str(number)))
        for wheel in wheels:
            package = wheel.name.partition("-")[0].replace("_", "-")
            if package not in INTERFACES:
                parser.error(f"{wheel.name}: no bridge to it; there are {', '.join(INTERFACES)}")
            wrong = differences(package, wheel)
            version = wheel.name.split("-")[1]
            print(f"{package} {version}: {'as the stand-in' if not wrong else 'differs'}")
            for line in wrong:
                print(f"    {line}")
            status |= bool(wrong)
    return status


if __name__ == "__main__":
    sys.exit(main())
