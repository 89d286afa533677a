"""Results on disk: shards while the job runs, then one JSONL file in the order of the prompts.

Each process writes a shard of its own. The files:

    out.jsonl.shards/run.json
        what makes the results: model, schedule, options, seed (`fingerprint`)
    out.jsonl.shards/rank-00003.jsonl
        records of finished batches, each batch closed by a {"batch": ...} line
    out.jsonl
        at the end, atomically; the folder goes
    out.jsonl.run.json
        run.json with the number of prompts, by which a repeated call knows its output

A batch is written in one piece and counts once its closing line is whole; what follows the last
such line is cut off.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import time
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import escape
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np

from mdm_schedules.checks import shown
from mdm_schedules.errors import FormatError, InvalidValueError, StorageError
from mdm_schedules.files import check_output, write_atomically
from mdm_schedules.integrations.accelerate.locked import lock_file
from mdm_schedules.integrations.accelerate.prompts import WINDOW, windows

FORMAT = 1
PATIENCE = 60.0  # seconds that a network file system may take to show a new file
_RECORD, _BATCH = b'{"index": ', b'{"batch": '
_OFFSET_BITS = 44  # of a record's location: the file's number above, the offset below

log = logging.getLogger("mdm_schedules")


@dataclass
class Finished:
    """What earlier runs have done.

    Attributes:
        bits: one bit per prompt.
        digests: by window, the digest of the prompts that its results belong to.
        prompts: number of all prompts if the output is complete, else None.
    """

    # One bit a prompt, little-endian: a million prompts fit into 122 KiB, and into one message.
    bits: bytes = b""
    digests: dict[int, str] = field(default_factory=dict)
    prompts: int | None = None

    def __contains__(self, index: int) -> bool:
        return index >> 3 < len(self.bits) and bool(self.bits[index >> 3] >> (index & 7) & 1)

    @property
    def count(self) -> int:
        """Prompts done."""
        return int(np.unpackbits(np.frombuffer(self.bits, dtype=np.uint8)).sum())

    def to_json(self) -> dict[str, Any]:
        """For the other processes."""
        return {**vars(self), "bits": base64.b64encode(zlib.compress(self.bits)).decode()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Finished:
        """What `to_json` gave."""
        digests = {int(number): digest for number, digest in data["digests"].items()}
        return cls(zlib.decompress(base64.b64decode(data["bits"])), digests, data["prompts"])


class Output:
    """The files of one output path, as the main process handles them.

    Raises:
        StorageError: they cannot be read or written, or another run is at work on them.
        InvalidValueError: they belong to other results than are asked for now.
    """

    def __init__(self, path: Path) -> None:
        if not path.name:
            raise InvalidValueError(f"output_path must name a file, got {shown(str(path))}")
        self.path = path
        self.folder = path.with_name(path.name + ".shards")
        self.note = path.with_name(path.name + ".run.json")
        self.run = self.folder / "run.json"
        self.lock: IO[bytes] | None = None

    def shard(self, rank: int) -> Path:
        """Where a process writes."""
        return self.folder / f"rank-{rank:05d}.jsonl"

    def start(
        self, fingerprint: dict[str, Any], overwrite: bool, force: bool, new_seed: int
    ) -> Finished:
        """Make the folder, or take up what is there.

        A `fingerprint["seed"]` of None becomes the seed of the results that are there, else
        `new_seed`.
        """
        check_output(self.path, plain=True)
        if self.path.exists() and not overwrite:
            return self._complete(fingerprint)
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock_folder()
            if overwrite:
                for file in (self.path, self.note, self.run, *self._shards()):
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {self.folder}: {error.strerror or error}") from error
        # what a process left that was killed while it wrote
        for file in (self.path, self.note, self.run):
            for litter in file.parent.glob(f".{escape(file.name)}.????????.tmp"):
                litter.unlink(missing_ok=True)
        if not self.run.exists():
            if fingerprint["seed"] is None:
                fingerprint["seed"] = new_seed
            self._write(self.run, fingerprint)
            return Finished()
        # An unfinished run goes on only with the settings that it began with.
        stored = self._read(self.run)
        _compare(stored, fingerprint, force, f"the unfinished run in {self.folder}")
        finished = self._scan(mend=True)[0]
        if force:
            self._write(self.run, fingerprint)
        return finished

    def _complete(self, fingerprint: dict[str, Any]) -> Finished:
        if not self.note.exists():
            raise StorageError(
                f"{self.path} exists and is no finished output of this call; "
                "overwrite=True replaces it"
            )
        stored = self._read(self.note)
        _compare(stored, fingerprint, False, f"the finished output {self.path}")
        # Changed by somebody since: neither resumed nor overwritten unasked.
        if self.path.stat().st_size != stored.get("bytes"):
            raise StorageError(
                f"{self.path} was changed after it was written; overwrite=True replaces it"
            )
        shutil.rmtree(self.folder, ignore_errors=True)  # of a process killed after it had renamed
        return Finished(
            digests={int(k): v for k, v in stored["digests"].items()}, prompts=stored["prompts"]
        )

    def extend(self, fingerprint: dict[str, Any], source: Any) -> None:
        """Make an unfinished run of a finished output, if prompts were appended to its own.

        Raises:
            InvalidValueError: the prompts that it was made from are not the first of `source`.
        """
        check_output(self.path, plain=True)
        if not (self.path.exists() and self.note.exists()):
            return
        # The digest of the window in which the old prompts ended is of fewer prompts than now, so
        # it is compared with the digest at that mark.
        before = self._complete(fingerprint)
        assert before.prompts is not None
        digests, count = dict(before.digests), 0
        for window in windows(source, before.prompts):
            count += len(window.prompts)
            known = before.digests.get(window.number)
            if known is None:
                break
            if known != (window.marked or window.digest):
                first = window.prompts[0].index
                raise InvalidValueError(
                    f"the prompts from {first} on are others than those of the finished output "
                    f"{self.path}; extend=True takes prompts appended at the end"
                )
            digests[window.number] = window.digest
        if count <= before.prompts:
            return  # as many, or fewer, of which the check of a finished output speaks
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock_folder()
            write_atomically(
                # From here on this is an unfinished run like any other.
                self.folder / "rank-kept.jsonl",
                lambda name: self._keep(Path(name), digests),
            )
            self._write(self.run, fingerprint)
            for file in (self.path, self.note):
                file.unlink()
        except OSError as error:
            raise StorageError(f"cannot write {self.folder}: {error.strerror or error}") from error
        finally:
            self.close()
            self.lock = None

    def _keep(self, shard: Path, digests: dict[int, str]) -> None:
        """The records of the output as a shard."""
        with open(self.path, "rb") as finished, open(shard, "wb") as out:
            for number, lines in groupby(finished, lambda line: _index(line) // WINDOW):
                count = 0
                for line in lines:
                    out.write(line)
                    count += 1
                closing = {"window": number, "digest": digests[number], "records": count}
                out.write(json.dumps({"batch": closing}).encode() + b"\n")

    def _lock_folder(self) -> None:
        self.lock = open(self.folder / "lock", "ab")  # noqa: SIM115 - held until the end
        if not lock_file(self.lock.fileno()):
            raise StorageError(
                f"another run is writing to {self.folder}; wait for it, or end its processes"
            )

    def _write(self, file: Path, fingerprint: dict[str, Any], **more: Any) -> None:
        text = json.dumps({"format": FORMAT, "fingerprint": fingerprint, **more}, indent=2) + "\n"
        write_atomically(file, lambda name: Path(name).write_text(text, encoding="utf-8"))

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            if stored["format"] != FORMAT or not isinstance(stored["fingerprint"], dict):
                raise FormatError(
                    f"{file} has format {shown(stored['format'])}; this library reads {FORMAT}"
                )
        except OSError as error:
            raise StorageError(f"cannot read {file}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(
                f"{file} is no description of a run ({error}); overwrite=True starts anew"
            ) from error
        return stored  # type: ignore[no-any-return]

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("rank-*.jsonl"))

    def _scan(self, mend: bool) -> tuple[Finished, array[int]]:
        """What is done, and where each prompt's records begin, -1 for none; 8 bytes a prompt."""
        # A location packs the shard's number and the offset into 64 bits: 8 bytes a prompt, where a
        # list of tuples would take many times as much.
        places: array[int] = array("q")
        digests: dict[int, str] = {}
        for number, shard in enumerate(self._shards()):
            with open(shard, "rb+") as file:
                if mend and not lock_file(file.fileno()):
                    raise StorageError(
                        f"a process of an earlier run still writes to {shard}; wait "
                        "for it, or end it"
                    )
                end = 0
                for window, digest, records, after in _batches(file):
                    if digests.setdefault(window, digest) != digest:
                        raise FormatError(
                            f"{self.folder} mixes different prompts; overwrite=True starts anew"
                        )
                    highest = max(index for index, _ in records)
                    # Indices come in any order; -1 is what is not done.
                    if highest >= len(places):
                        places.extend([-1] * (highest + 1 - len(places)))
                    for index, offset in reversed(records):  # of several answers the first
                        places[index] = number << _OFFSET_BITS | offset
                    end = after
                # What follows was being written when a process was killed.
                torn = file.seek(0, os.SEEK_END) - end
                if mend and torn:
                    file.truncate(end)
                    log.warning("cut %d bytes of an unfinished batch from %s", torn, shard)
        bits = (
            np.packbits(np.frombuffer(places, dtype=np.int64) >= 0, bitorder="little")
            if places
            else np.zeros(0)
        )
        return Finished(bits.astype(np.uint8).tobytes(), digests), places

    def check_shared(self, world: int) -> None:
        """Whether the shards of all processes are in the folder that this one sees."""
        end = time.monotonic() + PATIENCE
        while missing := [rank for rank in range(world) if not self.shard(rank).exists()]:
            if time.monotonic() < end:
                time.sleep(0.1)
                continue
            raise StorageError(
                f"the files of processes {missing} do not appear in {self.folder}; on several "
                "machines output_path "
                "must lie on a shared disk"
            )

    def finish(self, fingerprint: dict[str, Any], prompts: int) -> None:
        """Merge the shards into the output, in order, and remove them."""
        finished, places = self._scan(mend=False)
        missing = prompts - sum(place >= 0 for place in places[:prompts])
        if missing or len(places) > prompts:
            raise StorageError(
                f"{self.folder} holds results of {prompts - missing} of {prompts} prompts, and of "
                f"{len(places)} at the "
                "most; on several machines output_path must lie on a shared disk"
            )

        def merge(name: str) -> None:
            files = [open(shard, "rb") for shard in self._shards()]  # noqa: SIM115
            try:
                with open(name, "wb") as out:
                    for index, place in enumerate(places):
                        file = files[place >> _OFFSET_BITS]
                        file.seek(place & ((1 << _OFFSET_BITS) - 1))
                        start = b'{"index": %d,' % index
                        # Records of one prompt lie together, and "7," is no beginning of "70,".
                        while (line := file.readline()).startswith(start):
                            out.write(line)
                    size = out.tell()
            finally:
                for file in files:
                    file.close()
            # before the output has its name: a process killed in between merges again, one killed
            # after is done
            self._write(
                self.note, fingerprint, prompts=prompts, digests=finished.digests, bytes=size
            )

        write_atomically(self.path, merge)
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self) -> None:
        """Remove the folder if there is no record in it."""
        if not any(shard.stat().st_size for shard in self._shards()):
            shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Give the folder free."""
        if self.lock is not None:
            self.lock.close()


def _batches(file: IO[bytes]) -> Iterator[tuple[int, str, list[tuple[int, int]], int]]:
    """The whole batches at the start of a shard.

    Of each: window, digest, (index, offset) of the records, and the offset of the end.
    """
    records: list[tuple[int, int]] = []
    offset = 0
    for line in file:
        if not line.endswith(b"\n"):
            return
        try:
            if line.startswith(_RECORD):
                records.append((_index(line), offset))
            elif line.startswith(_BATCH) and records:
                batch = json.loads(line)["batch"]
                if batch["records"] != len(records):
                    return
                yield int(batch["window"]), str(batch["digest"]), records, offset + len(line)
                records = []
            else:
                return
        except (ValueError, KeyError, TypeError):
            return
        offset += len(line)


def _index(record: bytes) -> int:
    return int(record[len(_RECORD) : record.index(b",")])


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            k: v
            for key in value
            for k, v in _flat(value[key], f"{name}.{key}" if name else key).items()
        }
    return {name: value}


def _compare(stored: dict[str, Any], fingerprint: dict[str, Any], force: bool, what: str) -> None:
    """Refuse results of another model, schedule or option; take over the seed if none is given."""
    if fingerprint["seed"] is None:
        fingerprint["seed"] = stored["fingerprint"].get("seed")
    told = differences(stored["fingerprint"], fingerprint)
    if told and not force:
        remedy = "overwrite=True starts anew" + (
            "" if "finished output" in what else ", force_resume=True goes on"
        )
        raise InvalidValueError(f"{what} was made with other settings: {told}; {remedy}")


def differences(one: dict[str, Any], other: dict[str, Any]) -> str:
    """'name: this, now that; ...' of two fingerprints; empty if they are equal."""
    old, new = _flat(one), _flat(other)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return "; ".join(
        f"{name} was {shown(old.get(name))}, now {shown(new.get(name))}" for name in names[:4]
    )
