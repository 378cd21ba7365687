"""The Ray cluster that a run uses, and how to keep Ray from taking over signals and standard output."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from dlfc.cluster.worker import Worker
from dlfc.errors import DlfcError

_KNOCK_S = 10.0  # for the first machine of the cluster to answer
_OBJECT_STORE_BYTES = 10**8  # names and figures only go through it


@dataclass(frozen=True)
class Pool:
    """How many workers there shall be on the cluster, and what makes one."""

    ray: Any
    size: int
    worker: Any


@contextmanager
def cluster(workers: int | None, *, gpu: bool | None) -> Iterator[Pool]:
    """Connect to the Ray cluster of the environment, or start one on this machine; leave or stop it at the end.

    The pool has `workers` workers, or one per GPU or else one per CPU. `gpu` says whether to use GPUs, None: where
    there are any. Raises DlfcError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine that nobody asked for
    ray: Any = import_module("ray")
    with _output_kept():
        try:
            with _signals_kept():
                _connect(ray, workers)
            yield _pool(ray, workers, gpu)
        finally:
            ray.shutdown()


def _pool(ray: Any, workers: int | None, gpu: bool | None) -> Pool:
    there = ray.cluster_resources()
    kind = "GPU" if gpu or (gpu is None and there.get("GPU", 0) >= 1) else "CPU"
    if workers is None and there.get(kind, 0) < 1:
        raise DlfcError(f"the Ray cluster has no {kind}")
    needs = {"num_cpus": 1} | ({"num_gpus": 1} if kind == "GPU" else {})
    made = ray.remote(**needs, concurrency_groups={"looks": 1})(Worker)
    return Pool(ray, workers or int(there[kind]), made)


def _connect(ray: Any, workers: int | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    address = os.environ.get("RAY_ADDRESS", "auto")
    if address != "local":
        try:
            _knock(address)
            ray.init(address=address, **quiet)
            return
        except (OSError, RuntimeError, ray.exceptions.RayError) as error:
            if address != "auto" or not isinstance(error, ConnectionError):
                raise DlfcError(f"Ray cluster {address}: {' '.join(str(error).split())}") from error
    cpus = max(workers or 1, os.cpu_count() or 1)
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)


def _knock(address: str) -> None:
    """Raise OSError if nobody is at HOST:PORT, of which Ray makes sure for minutes. It has its own idea of loopback."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host and host not in ("127.0.0.1", "localhost"):
        socket.create_connection((host, int(port)), _KNOCK_S).close()


class _OneVoice:
    """Standard output that drops what other threads print: Ray's tell there of workers that die."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._owner = stream, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._owner:
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _output_kept() -> Iterator[None]:
    stream = sys.stdout
    if stream is None:
        yield
        return
    sys.stdout = cast(Any, _OneVoice(stream))
    try:
        yield
    finally:
        sys.stdout = stream


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray has an answer of its own to SIGTERM; ours stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)
