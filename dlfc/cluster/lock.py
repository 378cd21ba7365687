"""Keeps two drivers from working with one record at once, which would code files twice.

Every driver writes a file of its own beside the notes, and only then looks for those of others: of two drivers at
least one sees the other. That needs neither a file that only one can make nor one that changes hands, so it holds
wherever a folder lists what was just written. Nobody removes a file but the driver that wrote it, or one on the same
host once that driver is gone.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dlfc.cluster import places
from dlfc.errors import DlfcError

SUFFIX = ".lock"
_MAX_BYTES = 2**16
_PAUSES_S = (0.2, 0.4, 0.8)  # at most, before looking again: drivers that start together see each other


@dataclass(frozen=True)
class Owner:
    """A process on some machine; `started` tells it from another one of the same number, as far as that is known."""

    host: str
    pid: int
    started: str
    since: str

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return cls(socket.gethostname(), pid, _start_of(pid) or "", now)

    @classmethod
    def read(cls, name: str) -> Owner | None:
        """Who wrote a lock file, None if it does not say. Raises OSError."""
        try:
            fields = json.loads(places.load(name, max_bytes=_MAX_BYTES))
            owner = cls(str(fields["host"]), int(fields["pid"]), str(fields["started"]), str(fields["since"]))
            return owner if 0 < owner.pid < 2**31 else None
        except (ValueError, KeyError, TypeError, DlfcError):
            return None

    def is_gone(self) -> bool:
        """Whether the process has surely ended, which only its own host can tell."""
        if self.host != socket.gethostname():
            return False
        start = _start_of(self.pid)
        return start is None or (bool(start and self.started) and start != self.started)


@contextmanager
def held(place: str) -> Iterator[None]:
    """Be the only driver that works with the record in a folder, a name or a URL.

    Raises DlfcError, which names the file that stands in the way, or OSError.
    """
    for pause_s in (*_PAUSES_S, None):
        mine = places.join(place, f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}{SUFFIX}")
        places.save(mine, json.dumps(asdict(Owner.here())).encode(), overwrite=True)
        try:
            problem = _problem(place, mine)
            if problem is None:
                yield
                return
        finally:
            with suppress(OSError):
                places.remove(mine)
        if pause_s is None:
            raise DlfcError(f"{place}: {problem}")
        time.sleep(random.uniform(0, pause_s))


def _problem(place: str, mine: str) -> str | None:
    """Why this driver may not work there, None if it may; files of those that are gone are removed."""
    for name in _others(place, mine):
        try:
            owner = Owner.read(name)
        except FileNotFoundError:  # it has just ended
            continue
        if owner is None:
            return f"{name} stands for another run; if there is none, remove that file"
        if owner.is_gone():
            with suppress(FileNotFoundError):
                places.remove(name)
        else:
            who = f"process {owner.pid} on {owner.host} since {owner.since}"
            return f"another run works with this record ({who}); if that has died, remove {name}"
    return None


def _others(place: str, mine: str) -> list[str]:
    def failed(error: OSError) -> None:
        raise error

    _, names = next(places.walk(place, failed))
    found = [places.join(place, name) for name in names if name.endswith(SUFFIX)]
    return [name for name in found if name != mine]


def _start_of(pid: int) -> str | None:
    """When a process of this host started, in words that only it has; empty if unknown, None if there is none."""
    if not _runs(pid):
        return None
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # another system, or another user's process
        return ""
    return None if state in "ZX" else f"{boot} {fields[18]}"


def _runs(pid: int) -> bool:
    if os.name != "posix":
        return True  # not to be asked without harm
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True
