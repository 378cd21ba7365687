"""Many machines, as far as one process can tell: names and URLs, the manifest, the driver with workers that die."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import FakeCodec, Finished, picture
from ftp import Ftp, serve

from dlfc.cli.inputs import Job
from dlfc.cli.messages import UsageProblem
from dlfc.cli.steps import Extent, Outcome, Result
from dlfc.cluster import places
from dlfc.cluster.connection import Pool
from dlfc.cluster.driver import BATCH, Driver, Skipped
from dlfc.cluster.inputs import Plan
from dlfc.cluster.lock import Owner, held
from dlfc.cluster.manifest import Manifest, key_of
from dlfc.cluster.worker import Worker
from dlfc.errors import DlfcError, LimitError

Run = Callable[..., Finished]
NO_PLACE = 10**6


@pytest.fixture
def ftp(tmp_path: Path) -> Iterator[Ftp]:
    pytest.importorskip("pyftpdlib")
    folder = tmp_path / "served"
    folder.mkdir()
    with serve(folder) as server:
        yield server


@pytest.fixture
def memory() -> Iterator[str]:
    from fsspec.implementations.memory import MemoryFileSystem

    yield "memory://album"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers that are refused say so at once."""
    monkeypatch.setattr("dlfc.cluster.lock._PAUSES_S", (0.01,))


@pytest.fixture(params=["local", "memory", "ftp"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of each kind, which need not exist."""
    if request.param == "local":
        return str(tmp_path / "album")
    if request.param == "ftp":
        return f"{request.getfixturevalue('ftp').url}/album"
    return str(request.getfixturevalue("memory"))


# --- places -------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_there_and_can_be_loaded_and_replaced_only_when_asked(place: str) -> None:
    name = places.join(place, "deep/er", "a.bin")
    assert not places.exists(name)
    places.save(name, b"one", overwrite=False)
    assert places.exists(name)
    with pytest.raises(FileExistsError) as error:
        places.save(name, b"two", overwrite=False)
    assert error.value.filename == name
    assert places.load(name, max_bytes=3) == b"one"
    places.save(name, b"three", overwrite=True)
    assert places.load(name, max_bytes=5) == b"three"
    with pytest.raises(LimitError):
        places.load(name, max_bytes=4)


def test_a_missing_file_and_a_folder_are_told_by_the_name_that_was_given(place: str) -> None:
    places.save(places.join(place, "a.bin"), b"", overwrite=False)
    for name, kind in ((places.join(place, "b.bin"), FileNotFoundError), (place, IsADirectoryError)):
        with pytest.raises(kind) as error:
            places.load(name, max_bytes=9)
        assert error.value.filename == name


def test_a_walk_finds_all_files_in_order(place: str) -> None:
    for name in ("b/z.png", "b/c/y.png", "x.png", "a.png", "b/.cache/w.png"):
        places.save(places.join(place, name), b"1", overwrite=False)
    problems: list[OSError] = []
    found = [(below.strip("."), names) for below, names in places.walk(place, problems.append)]
    assert found == [("", ["a.png", "x.png"]), ("b", ["z.png"]), ("b/c", ["y.png"])]
    assert not problems
    assert places.is_folder(place)
    assert not places.is_folder(places.join(place, "x.png"))
    assert not places.is_folder(places.join(place, "nothing"))


def test_a_file_that_cannot_be_moved_into_place_leaves_nothing(ftp: Ftp, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.ftp import FTPFileSystem

    def refuse(self: Any, *names: str, **options: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(FTPFileSystem, "mv", refuse)
    with pytest.raises(PermissionError):
        places.save(f"{ftp.url}/out/a.bin", b"1", overwrite=False)
    assert [path for path in ftp.folder.rglob("*") if path.is_file()] == []


def test_what_fails_for_a_moment_is_tried_again(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(places.time, "sleep", lambda seconds: None)
    asked: list[str] = []

    def weak(self: Any, path: str, **options: Any) -> bytes:
        asked.append(path)
        if len(asked) < 3:
            raise RuntimeError("no route\nto host")
        return b"1"

    places.save(f"{memory}/a", b"1", overwrite=False)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", weak)
    assert places.load(f"{memory}/a", max_bytes=9) == b"1"
    asked[:] = []
    monkeypatch.setattr(places, "_PAUSES_S", (0.0,))
    with pytest.raises(OSError, match="no route to host"):
        places.load(f"{memory}/a", max_bytes=9)


@pytest.mark.parametrize("name", ["nonsense://x/y", "s3.x://y"])
def test_a_url_that_nothing_can_reach_is_one_line(name: str) -> None:
    with pytest.raises(DlfcError, match=r"^[^\n]+$"):
        places.check(name)


def test_a_name_with_colons_in_it_is_no_url() -> None:
    assert [name for name in ("://x", "a/b://c", "C:/x", "1://x", "s3:/x") if places.is_url(name)] == []
    assert places.is_url("simplecache::s3://bucket/x")


# --- the manifest -------------------------------------------------------------------------------------------------


def test_a_manifest_remembers_what_is_begun_and_done(place: str) -> None:
    keys = [key_of(f"{n}.png", f"{n}.dlf") for n in range(5)]
    with Manifest(place, {"quality": 50}) as manifest:
        manifest.begin(keys[:4])
        manifest.finish(keys[0], {"input": "0.png"})
        manifest.fail(keys[1], {"input": "1.png", "error": "bad"})
        manifest.begin(keys[4:])
    with Manifest(place, {"quality": 50}) as manifest:
        assert [manifest.is_done(key) for key in keys] == [True, False, False, False, False]
        assert [manifest.is_begun(key) for key in keys] == [False, False, True, True, True]
        manifest.finish(keys[2], {})
    with Manifest(place, {"quality": 50}) as manifest:
        assert [manifest.is_done(key) for key in keys] == [True, False, True, False, False]
        assert [manifest.is_begun(key) for key in keys] == [False, False, False, True, True]


def test_a_note_of_what_begins_is_there_before_the_run_ends(place: str) -> None:
    manifest = Manifest(place, {})
    manifest.begin([key_of("a", "b")])
    with Manifest(place, {}) as other:
        assert other.is_begun(key_of("a", "b"))
    manifest._notes.close()


def test_the_record_of_another_run_is_refused(tmp_path: Path) -> None:
    place = str(tmp_path / "notes")
    with Manifest(place, {"quality": 50}):
        pass
    with pytest.raises(DlfcError, match="is the record of a run with quality 50, not 20; name another one"):
        Manifest(place, {"quality": 20})


def test_a_line_that_was_not_finished_is_no_note_and_another_is_damage(tmp_path: Path) -> None:
    place = tmp_path / "notes"
    with Manifest(str(place), {}) as manifest:
        manifest.finish(key_of("a", "b"), {})
    (part,) = place.iterdir()
    whole = part.read_text()
    part.write_text(whole + '{"done": "00')
    with Manifest(str(place), {}) as manifest:
        assert manifest.is_done(key_of("a", "b"))
    for line in ("nonsense", "[]", "{}", '{"done": 3}', '{"done": "00"}', '{"begun": "x"}'):
        part.write_text(f"{whole}{line}\n")
        with pytest.raises(DlfcError, match=r"line 3 is no note of a run; the record is damaged"):
            Manifest(str(place), {})


# --- one driver at a time -----------------------------------------------------------------------------------------

_HOLD = (
    "import sys, time; from dlfc.cluster.lock import held\nwith held(sys.argv[1]): print('held', flush=True); input()"
)
_HOLD_OFTEN = """
import os, sys, time
from dlfc.cluster.lock import held
from dlfc.errors import DlfcError
place, log = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
print("ready", flush=True)
input()
for _ in range(5):
    try:
        with held(place):
            os.write(log, b"(")
            time.sleep(0.02)
            os.write(log, b")")
    except DlfcError:
        pass
"""


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A process that has said its first word and waits for a line."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def lock_files(place: str) -> list[str]:
    names = next(places.walk(place, list[OSError]().append), ("", list[str]()))[1]
    return [places.join(place, name) for name in names if name.endswith(".lock")]


def write_lock(place: str, **fields: Any) -> str:
    name = places.join(place, "other.lock")
    places.save(name, json.dumps(asdict(Owner.here()) | fields).encode(), overwrite=True)
    return name


def test_a_second_command_with_one_record_is_refused_until_the_first_has_died(dlfc: Run, photo: Path) -> None:
    pytest.importorskip("ray")
    first = start(_HOLD, "out/dlfc-encode-manifest")
    run = dlfc("encode", "photo.png", "--engine", "ray", "--output-dir", "out")
    said = r"dlfc: out/dlfc-encode-manifest: another run works with this record \(process (\d+) on \S+ since [^)]+\); "
    found = re.fullmatch(rf"{said}if that has died, remove (out/\S+\.lock)\n", run.err)
    assert run.status == 1
    assert found is not None
    assert int(found[1]) == first.pid
    assert [found[2]] == lock_files("out/dlfc-encode-manifest")
    assert os.listdir("out") == ["dlfc-encode-manifest"]
    first.kill()
    first.communicate()
    with held("out/dlfc-encode-manifest"):
        assert found[2] not in lock_files("out/dlfc-encode-manifest")
    assert lock_files("out/dlfc-encode-manifest") == []


def test_of_processes_that_start_together_no_two_work_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    processes = [start(_HOLD_OFTEN, tmp_path / "notes", log) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert re.fullmatch(r"(\(\))+", log.read_text())


def test_only_one_driver_at_a_time_works_with_a_record_anywhere(place: str, quick: None) -> None:
    with held(place), pytest.raises(DlfcError, match=r"^[^\n]+ works with this record [^\n]+$"), held(place):
        pass
    assert lock_files(place) == []
    with held(place):
        assert len(lock_files(place)) == 1


@pytest.mark.parametrize("fields", [{"host": "elsewhere"}, {"pid": "x"}, {"pid": 0}, {"pid": 10**30}, {"pid": None}])
def test_the_file_of_a_driver_that_nobody_here_can_know_is_named(
    memory: str, quick: None, fields: dict[str, Any]
) -> None:
    name = write_lock(memory, **fields)
    with pytest.raises(DlfcError, match=rf"remove ({re.escape(name)}|that file)$") as error, held(memory):
        pass
    assert name in str(error.value)
    places.remove(name)
    with held(memory):
        pass


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="when a process started is not known here")
def test_a_process_with_the_number_of_a_dead_driver_is_not_that_driver(memory: str) -> None:
    name = write_lock(memory, started="another boot 1")
    with held(memory):
        assert name not in lock_files(memory)


def test_a_record_that_cannot_be_locked_is_one_line(dlfc: Run, photo: Path) -> None:
    pytest.importorskip("ray")
    Path("notes").touch()
    run = dlfc("encode", "photo.png", "--engine", "ray", "--manifest", "notes")
    assert (run.status, run.err) == (1, "dlfc: notes: is not a directory\n")


# --- what there is to do ------------------------------------------------------------------------------------------


def jobs_of(*inputs: str, output_dir: str | None = "out", recursive: bool = True) -> list[Job]:
    return list(Plan(inputs, output_dir, ".dlf", recursive, (".png", ".jpg")).jobs())


def test_a_folder_keeps_its_tree_wherever_it_is(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b/c.JPG", "b/notes.txt"):
        places.save(places.join(place, name), b"1", overwrite=False)
    here = [(places.join(place, "a.png"), "out/a.dlf"), (places.join(place, "b", "c.JPG"), "out/b/c.dlf")]
    assert [(job.source, job.target) for job in jobs_of(place)] == here
    assert [job.target for job in jobs_of(place, output_dir="memory://out")] == [
        "memory://out/a.dlf",
        "memory://out/b/c.dlf",
    ]
    assert [job.target for job in jobs_of(place, output_dir=None)] == [
        places.join(place, "a.dlf"),
        places.join(place, "b", "c.dlf"),
    ]


def test_files_with_one_result_are_problems_of_all_but_the_first(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/a.jpg", "y/a.png"):
        places.save(str(tmp_path / name), b"1", overwrite=False)
    (found, clash) = jobs_of(str(tmp_path / "x"))
    assert (found.problem, clash.problem) == ("", f"{clash.source}: would become out/a.dlf, as {found.source} does")
    problems = [bool(job.problem) for job in jobs_of(str(tmp_path / "x/a.png"), str(tmp_path / "y"))]
    assert problems == [False, True]


def test_an_input_is_never_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = jobs_of("a.dlf", output_dir=None)
    assert job.problem == "a.dlf: is an input and would be overwritten"


def test_empty_folders_folders_without_the_option_and_missing_files_are_problems(tmp_path: Path) -> None:
    (empty,) = jobs_of(str(tmp_path))
    assert empty.problem == f"{tmp_path}: has no files in it to take"
    (folder,) = jobs_of(str(tmp_path), recursive=False)
    assert folder.problem == f"{tmp_path}: is a folder; use --recursive to take the files in it"


def test_standard_input_and_empty_names_are_usage_errors() -> None:
    for inputs in (["-"], [""], ["a.png", "-"]):
        with pytest.raises(UsageProblem):
            jobs_of(*inputs)


# --- the driver ---------------------------------------------------------------------------------------------------


class Died(Exception):
    """Stands in for what Ray says of a worker that is gone."""


class FakeRay:
    """As much of Ray as the driver uses, in this process. A worker dies when it is to code a file in `poison`.

    The numbers there say how many deaths a file causes before it does no harm any more.
    """

    exceptions = SimpleNamespace(RayActorError=Died, OutOfMemoryError=Died, WorkerCrashedError=Died, NodeDiedError=Died)

    def __init__(self) -> None:
        self.poison: dict[str, int] = {}
        self.started = self.ended = self.most_at_once = 0
        self.coded: list[str] = []

    def remote(self, *arguments: Any) -> Any:
        self.started += 1
        worker, dead = Worker(*arguments), [False]

        def method(name: str) -> Any:
            def call(*values: Any) -> Callable[[], Any]:
                return lambda: self._do(dead, worker, name, values)

            made = SimpleNamespace(remote=call)
            made.options = lambda **options: made
            return made

        return SimpleNamespace(prepare=method("prepare"), look=method("look"), code=method("code"))

    def _do(self, dead: list[bool], worker: Worker, name: str, values: Sequence[Any]) -> Any:
        if dead[0]:
            raise Died("the worker died")
        if name != "code":
            return getattr(worker, name)(*values)
        done: list[Any] = []
        for job in values[0]:
            if self.poison.get(job.source, 0) > 0:
                self.poison[job.source] -= 1
                dead[0] = True
                raise Died("the worker died")
            done += worker.code([job], values[1])
        return done

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        self.most_at_once = max(self.most_at_once, len(references))
        return references[:1], references[1:]

    def get(self, reference: Any) -> Any:
        return reference()

    def kill(self, actor: Any) -> None:
        self.ended += 1


class Copying:
    """A task that copies files; one that holds `bad` fails."""

    def __init__(self, log: list[str], load: Any = places.load) -> None:
        self.log, self.load, self.problem = log, load, ""

    def prepare(self) -> None:
        if self.problem:
            raise DlfcError(self.problem)

    def read(self, job: Job) -> Any:
        data = self.load(job.source, max_bytes=99)
        if data == b"bad":
            raise DlfcError("is bad")
        self.log.append(job.source)
        return data

    def extent(self, item: Any) -> Extent:
        return Extent(1, "all", 4)

    def work(self, items: Sequence[Any]) -> list[Result]:
        model: Any = SimpleNamespace(name="copy", model_id=b"COPY")
        return [Result(lambda data=data: data, len(data), "", {"bpp": 1.0}, model) for data in items]


class Scene:
    """A folder of files to copy, a driver and what it says."""

    def __init__(self, place: str, count: int) -> None:
        self.place, self.ray = place, FakeRay()
        self.log: list[str] = []
        self.task = Copying(self.log)
        for number in range(count):
            places.save(self.source(number), b"%d" % number, overwrite=False)

    def source(self, number: int) -> str:
        return places.join(self.place, "in", f"{number:03}.png")

    def target(self, number: int) -> str:
        return places.join(self.place, "out", f"{number:03}.dlf")

    def run(self, workers: int = 2, *, stop_after: int | None = None, **options: bool) -> dict[str, str]:
        """What became of each file: its reason, `done` or `skipped`; with `stop_after`, the driver stops in between."""
        became: dict[str, str] = {}
        plan = Plan([places.join(self.place, "in")], places.join(self.place, "out"), ".dlf", True, (".png",))
        options = {"overwrite": False, "skip_existing": False, **options}
        with Manifest(places.join(self.place, "notes"), {}) as manifest:
            driver = Driver(Pool(self.ray, workers, self.ray), self.task, manifest, folder=None, **options)
            for event in driver.run(plan.jobs()):
                if isinstance(event, Skipped):
                    became[event.job.source] = "skipped"
                elif isinstance(event, Outcome):
                    became[event.job.source] = event.reason or "done"
                if len(became) == stop_after:
                    break
        return became


def test_many_files_are_done_with_few_batches_in_flight(memory: str) -> None:
    scene = Scene(memory, 10 * BATCH + 3)
    became = scene.run()
    assert set(became.values()) == {"done"}
    assert len(became) == 10 * BATCH + 3
    assert places.load(scene.target(7), max_bytes=9) == b"7"
    assert scene.ray.most_at_once <= 4
    assert set(scene.run().values()) == {"skipped"}


def test_a_signal_ends_the_run_and_its_workers(memory: str) -> None:
    scene = Scene(memory, 5)

    def wait(*_: Any, **__: Any) -> Any:
        raise SystemError("returned a result with an exception set") from KeyboardInterrupt()

    scene.ray.wait = wait  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        scene.run()
    assert scene.ray.started == scene.ray.ended == 2


def test_a_bad_file_is_its_own_failure_and_is_tried_again_by_the_next_run(memory: str) -> None:
    scene = Scene(memory, 5)
    places.save(scene.source(2), b"bad", overwrite=True)
    assert scene.run()[scene.source(2)] == f"{scene.source(2)}: is bad"
    assert scene.ray.started == 2
    places.save(scene.source(2), b"good", overwrite=True)
    assert sorted(scene.run().values()) == ["done", *["skipped"] * 4]


def test_after_the_death_of_a_worker_every_file_is_done_and_none_that_was_written_again(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlfc.cluster.worker._is_whole", lambda target: True)
    scene = Scene(memory, 3 * BATCH)
    scene.ray.poison[scene.source(40)] = 1
    became = scene.run()
    assert scene.ray.started == 3
    assert set(became) == {scene.source(n) for n in range(3 * BATCH)}
    assert set(became.values()) == {"done", "skipped"}  # some were written by the worker that died
    assert {source for source, what in became.items() if what == "skipped"} == {
        scene.source(n) for n in range(BATCH, 40)
    }


def test_a_file_that_kills_every_worker_is_given_up_and_the_others_are_done(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlfc.cluster.worker._is_whole", lambda target: True)
    scene = Scene(memory, BATCH + 5)
    scene.ray.poison[scene.source(3)] = NO_PLACE
    became = scene.run()
    assert became.pop(scene.source(3)) == f"{scene.source(3)}: 4 workers died while they had it in work"
    assert set(became.values()) == {"done", "skipped"}
    assert all(places.exists(scene.target(n)) for n in range(BATCH + 5) if n != 3)


def test_workers_that_die_of_everything_end_the_run(memory: str) -> None:
    scene = Scene(memory, 2)
    scene.ray._do = lambda *_: (_ for _ in ()).throw(Died("out of memory\nand more"))  # type: ignore[method-assign]
    with pytest.raises(DlfcError, match=r"workers die before they have done anything: out of memory$"):
        scene.run()


def test_a_worker_that_cannot_start_ends_the_run_with_its_reason(memory: str) -> None:
    scene = Scene(memory, 2)
    scene.task.problem = "there is no such model"
    with pytest.raises(DlfcError, match=r"a worker on \S+ cannot start: there is no such model"):
        scene.run()


def test_a_run_that_stopped_goes_on_and_does_no_file_twice(memory: str) -> None:
    scene = Scene(memory, 5 * BATCH)
    scene.run(stop_after=BATCH)
    assert set(scene.run().values()) == {"done", "skipped"}
    assert sorted(scene.log) == [scene.source(n) for n in range(5 * BATCH)]


def test_a_result_that_was_written_but_not_noted_counts_if_it_is_whole(memory: str) -> None:
    scene = Scene(memory, 3)
    keys = [key_of(scene.source(n), scene.target(n)) for n in range(3)]
    with Manifest(places.join(memory, "notes"), {}) as manifest:
        manifest.begin(keys[:2])
    whole = FakeCodec().encode(picture())
    for number, data in enumerate((whole, whole[:-1], whole)):
        places.save(scene.target(number), data, overwrite=False)
    became = scene.run()
    assert became[scene.source(0)] == "skipped"
    assert became[scene.source(1)] == "done"  # it was cut short
    assert became[scene.source(2)] == f"{scene.target(2)}: already exists; use -f to overwrite it"
    assert places.load(scene.target(2), max_bytes=NO_PLACE) == whole


def test_existing_results_of_others_are_skipped_or_replaced_when_asked(memory: str) -> None:
    scene = Scene(memory, 2)
    places.save(scene.target(0), b"mine", overwrite=False)
    assert scene.run(skip_existing=True)[scene.source(0)] == "skipped"
    assert places.load(scene.target(0), max_bytes=9) == b"mine"
    other = Scene(f"{memory}/other", 2)
    places.save(other.target(0), b"mine", overwrite=False)
    assert set(other.run(overwrite=True).values()) == {"done"}
    assert places.load(other.target(0), max_bytes=9) == b"0"


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.png", "--engine", "ray", "-o", "a.dlf"], "-o does not go with --engine ray; use --output-dir"),
        (["a.png", "--engine", "ray", "--output-dir", "o", "-j", "2"], "-j does not go with --engine ray"),
        (["-", "--engine", "ray", "--output-dir", "o"], "standard input (-) does not go with --engine ray"),
        (["a.png", "--engine", "ray"], "--engine ray needs --output-dir, or --manifest for its notes"),
        (["a.png", "--manifest", "m"], "--manifest is for --engine ray"),
        (["a.png", "--workers", "2"], "--workers is for --engine ray"),
        (["a.png", "--engine", "spark"], "'spark' is none of local, ray"),
        (["a.png", "--engine", "ray", "--output-dir", "o", "--workers", "0"], "'0' is not a whole number from 1 up"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("command", ["encode", "decode"])
def test_options_that_make_no_sense_are_usage_errors(dlfc: Run, command: str, arguments: list[str], said: str) -> None:
    run = dlfc(command, *arguments)
    assert run.status == 2
    assert said in run.err
    assert not os.listdir()


def test_a_cluster_that_is_not_there_is_one_line(dlfc: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "nowhere.invalid:6379")
    run = dlfc("encode", "photo.png", "--engine", "ray", "--output-dir", "out")
    assert run.status == 1
    assert re.fullmatch(r"dlfc: Ray cluster nowhere\.invalid:6379: [^\n]+\n", run.err)


def test_a_missing_extra_is_one_line(dlfc: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run = dlfc("encode", "photo.png", "--engine", "ray", "--output-dir", "out")
    said = "dlfc: --engine ray needs ray and fsspec; install with: pip install 'dlfc[ray]'\n"
    assert (run.status, run.err) == (1, said)


def test_a_task_can_be_sent_to_another_process() -> None:
    import pickle

    from dlfc.cli.codecs import Codecs

    codecs = pickle.loads(pickle.dumps(Codecs("small", "cpu", "encode")))
    assert codecs.model == "small"


def test_notes_are_lines_of_json(memory: str) -> None:
    scene = Scene(memory, 1)
    scene.run()
    failed: list[OSError] = []
    _, names = next(places.walk(places.join(memory, "notes"), failed.append))
    notes = [
        json.loads(line)
        for name in names
        for line in places.load(places.join(memory, "notes", name), max_bytes=NO_PLACE).splitlines()
    ]
    assert [next(iter(note)) for note in notes] == ["settings", "begun", "done"]
    assert (notes[2]["input"], notes[2]["output"]) == (scene.source(0), scene.target(0))
