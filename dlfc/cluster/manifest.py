"""The record of a run over many files: which were begun, done, failed; so that a run that was stopped can go on.

It is a folder of files with one JSON object per line. Every run adds files of its own, so nothing that was written is
ever changed. A file of pictures is *begun* before a worker may write its result, and *done* afterwards. What is begun
and not done when a run goes on was in work when the last one stopped: if its result is there and whole, it is done.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, TextIO

import numpy as np

from dlfc import files
from dlfc.cluster import places
from dlfc.errors import DlfcError

SUFFIX = ".jsonl"
_KEY_BYTES = 16
_MAX_PART_BYTES = 2**30  # of a part behind a URL, which is read at once; each holds the notes of a few batches


def key_of(source: str, target: str) -> bytes:
    """What stands for a file and its result in memory: 120 bits of their absolute names."""
    names = f"{places.absolute(source)}\0{places.absolute(target)}".encode("utf-8", "surrogateescape")
    return blake2b(names, digest_size=_KEY_BYTES - 1).digest() + b"."  # numpy cuts zero bytes at the end


class Manifest:
    """Reads the record in a folder, a name or a URL, and adds to it; a context manager.

    `settings` say what decides the results; a record that was begun with others is refused with DlfcError.
    """

    def __init__(self, place: str, settings: dict[str, Any]) -> None:
        self._place = place
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._begun: set[bytes] = set()
        self._done = self._read()
        self._begun = {key for key in self._begun if not self.is_done(key)}  # clocks of machines may differ
        self._notes = _writer(place)
        self._notes.add({"settings": self._settings})

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self._notes.close()

    def is_done(self, key: bytes) -> bool:
        """Whether an earlier run noted that it is done."""
        at = int(np.searchsorted(self._done, np.bytes_(key)))
        return at < len(self._done) and bytes(self._done[at]) == key

    def is_begun(self, key: bytes) -> bool:
        """Whether this run or an earlier one began it, and it is not noted as done."""
        return key in self._begun

    def begin(self, keys: Iterable[bytes]) -> None:
        """Note what may be written from now on; when this returns, the note outlives the process."""
        keys = list(keys)
        self._begun.update(keys)
        self._notes.add({"begun": [key.hex() for key in keys]})
        self._notes.sync()

    def finish(self, key: bytes, facts: dict[str, Any]) -> None:
        """Note a result that is there."""
        self._begun.discard(key)
        self._notes.add({"done": key.hex(), **facts})

    def fail(self, key: bytes, facts: dict[str, Any]) -> None:
        """Note what has no result; a later run tries it again."""
        self._begun.discard(key)
        self._notes.add({"failed": key.hex(), **facts})

    def _read(self) -> np.ndarray[Any, np.dtype[np.bytes_]]:
        done = bytearray()
        for part in _parts(self._place):
            for number, note in _lines(part):
                try:
                    if "settings" in note:
                        self._check_settings(note["settings"])
                    elif "begun" in note:
                        self._begun.update(map(_key, note["begun"]))
                    elif "done" in note:
                        key = _key(note["done"])
                        self._begun.discard(key)
                        done += key
                    else:
                        self._begun.discard(_key(note["failed"]))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise _damaged(part, number) from error
        return np.sort(np.frombuffer(bytes(done), dtype=f"S{_KEY_BYTES}"))

    def _check_settings(self, settings: dict[str, Any]) -> None:
        names = self._settings.keys() | settings.keys()
        for name in sorted(names):
            mine, theirs = self._settings.get(name), settings.get(name)
            if mine != theirs:
                raise DlfcError(
                    f"{self._place}: is the record of a run with {name} {theirs}, not {mine}; "
                    "name another one with --manifest"
                )


def _key(text: str) -> bytes:
    key = bytes.fromhex(text)
    if len(key) != _KEY_BYTES:
        raise ValueError
    return key


def _damaged(part: str, number: int) -> DlfcError:
    return DlfcError(f"{part}: line {number} is no note of a run; the record is damaged")


def _parts(place: str) -> Iterator[str]:
    """The files of a record, the oldest first."""
    if not places.is_folder(place):
        return

    def failed(error: OSError) -> None:
        raise error

    _, names = next(places.walk(place, failed))
    yield from (places.join(place, name) for name in names if name.endswith(SUFFIX))


def _lines(part: str) -> Iterator[tuple[int, Any]]:
    """The notes of one file with their line numbers; a last line that was not finished is none."""
    text: Iterable[bytes]
    if places.is_url(part):
        text = places.load(part, max_bytes=_MAX_PART_BYTES).splitlines(keepends=True)
        yield from _notes(part, text)
        return
    with open(part, "rb") as text:
        yield from _notes(part, text)


def _notes(part: str, lines: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            note = json.loads(line)
        except ValueError as error:
            raise _damaged(part, number) from error
        if not isinstance(note, dict):
            raise _damaged(part, number)
        yield number, note


def _writer(place: str) -> _LocalNotes | _RemoteNotes:
    now = time.time_ns()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now // 10**9))
    name = f"{stamp}-{now % 10**9:09}-{os.urandom(3).hex()}"  # in the order of time, and never one twice
    return (_RemoteNotes if places.is_url(place) else _LocalNotes)(places.join(place, name))


class _LocalNotes:
    """One file that grows. What was added is in the hands of the system at once, and on the disk after `sync`."""

    def __init__(self, name: str) -> None:
        files.make_directory(places.parent(name) or ".")
        self._file: TextIO = open(name + SUFFIX, "x", encoding="utf-8")  # noqa: SIM115, closed by close

    def add(self, note: dict[str, Any]) -> None:
        self._file.write(json.dumps(note) + "\n")
        self._file.flush()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _RemoteNotes:
    """A new file for the notes since the last `sync`, since most stores cannot add to one."""

    def __init__(self, name: str) -> None:
        self._name, self._count, self._waiting = name, 0, list[str]()

    def add(self, note: dict[str, Any]) -> None:
        self._waiting.append(json.dumps(note) + "\n")

    def sync(self) -> None:
        if self._waiting:
            name = f"{self._name}-{self._count:08}{SUFFIX}"
            places.save(name, "".join(self._waiting).encode(), overwrite=True)
            self._count, self._waiting = self._count + 1, []

    def close(self) -> None:
        self.sync()
