"""A real Ray cluster with two workers, files behind FTP; a worker and the driver are killed in the middle of a run."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import picture, real_command
from ftp import Ftp, serve
from PIL import Image

from dlfc.formats import unpack

pytest.importorskip("ray")
pytest.importorskip("pyftpdlib")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc"),
]

MODEL = Path(__file__).parent.parent / "formats" / "vectors" / "model" / "vectors-1.safetensors"
PATIENCE_S = 240
ENVIRONMENT = {  # nobody else on this machine can use the cluster
    **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"},
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def head() -> Iterator[subprocess.Popen[bytes]]:
    """A cluster of this machine alone, which outlives the drivers that use it; `args[-1]` is its address."""
    port, agent = _free_ports(2)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # short, for its sockets
        ray = str(Path(sys.executable).with_name("ray"))
        options = {"--port": port, "--num-cpus": 2, "--temp-dir": folder, "--dashboard-agent-listen-port": agent}
        options |= {"--object-store-memory": 10**8, "--include-dashboard": "false", "--node-ip-address": "127.0.0.1"}
        words = [f"{name}={value}" for name, value in options.items()]
        command = [ray, "start", "--head", "--block", "--disable-usage-stats", *words]
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=os.environ | ENVIRONMENT, **quiet)
        process.args = [*command, f"127.0.0.1:{port}"]
        try:
            _wait_until(lambda: _listens(port))
            yield process
        finally:
            process.terminate()  # it takes its children along
            process.wait(PATIENCE_S)


@pytest.fixture
def ftp(tmp_path: Path) -> Iterator[Ftp]:
    folder = tmp_path / "served"
    folder.mkdir()
    with serve(folder) as server:
        yield server


def test_after_kills_of_driver_and_worker_every_file_is_coded_once(head: subprocess.Popen[bytes], ftp: Ftp) -> None:
    names = [f"{number:03}" for number in range(100)]
    (ftp.folder / "in" / "deep").mkdir(parents=True)
    for number, name in enumerate(names):
        picture(24 + number % 8, 16).save(ftp.folder / "in" / ("deep" if number % 2 else "") / f"{name}.png")
    (ftp.folder / "in" / "bad.png").write_text("not a picture")
    out = ftp.folder / "out"
    command = real_command(
        *("encode", f"{ftp.url}/in", "--recursive", "--output-dir", f"{ftp.url}/out", "-m", MODEL),
        *("--engine", "ray", "--workers", "2", "--json"),
    )

    first = _start(command, head)
    _wait_until(lambda: len(_results(out)) >= 5)
    first.kill()
    first.wait()
    _wait_until(lambda: not _workers(head))
    before = len(_results(out))
    assert 5 <= before < 80

    second = _start(command, head, stderr=subprocess.PIPE)
    _wait_until(lambda: len(_results(out)) >= before + 5)
    victims = _workers(head)
    os.kill(victims[0], signal.SIGKILL)
    said, told = second.communicate(timeout=PATIENCE_S)

    lines = [json.loads(line) for line in said.splitlines()]
    assert second.returncode == 1
    assert len(victims) == 2
    assert b"dlfc: a worker died; another one does its work\n" in told
    (failed,) = [line for line in lines if "error" in line]
    assert failed["input"] == f"{ftp.url}/in/bad.png"
    assert "not an image" in failed["error"]
    assert Counter(line["input"] for line in lines).most_common(1)[0][1] == 1
    assert len(lines) == 101
    assert before <= sum("skipped" in line for line in lines) < 80
    assert sorted(path.stem for path in _results(out)) == names
    assert all(unpack(path.read_bytes()).complete for path in _results(out))
    moves = Counter(Path(name).stem for name in ftp.moves if name.endswith(".dlf"))
    assert moves == Counter(names)  # each was put into its place once

    third = subprocess.run(
        real_command(
            *("decode", f"{ftp.url}/out/000.dlf", f"{ftp.url}/out/deep/001.dlf", "missing.dlf", "--engine", "ray"),
            *("--workers", "1", "--output-dir", "pictures", "-m", MODEL),
        ),
        cwd=ftp.folder,
        env=_environment(head),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert third.returncode == 1
    assert b"dlfc: missing.dlf: No such file or directory\n" in third.stderr
    assert b"/out/000.dlf -> pictures/000.png  24x16 pixels\n" in third.stderr
    with Image.open(ftp.folder / "pictures" / "001.png") as seen:
        assert seen.size == (25, 16)


def _environment(head: subprocess.Popen[bytes]) -> dict[str, str]:
    assert isinstance(head.args, list)
    return os.environ | ENVIRONMENT | {"RAY_ADDRESS": str(head.args[-1])}


def _start(command: list[str], head: subprocess.Popen[bytes], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=_environment(head), stdout=subprocess.PIPE, **options)


def _results(folder: Path) -> list[Path]:
    return list(folder.rglob("*.dlf"))


def _workers(head: subprocess.Popen[bytes]) -> list[int]:
    """The processes below the cluster's first one that are workers of dlfc."""
    parents: dict[int, int] = {}
    titles: dict[int, bytes] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(path.name)] = (path / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue

    def is_below(pid: int) -> bool:
        return pid == head.pid or (pid in parents and is_below(parents[pid]))

    return [pid for pid, title in titles.items() if title.startswith(b"ray::Worker") and is_below(pid)]


def _wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.02)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
