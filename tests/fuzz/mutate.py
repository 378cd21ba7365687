"""Run damaged and forged .dlf files through the program in bounded processes.

Every file goes through `dlfc info`, `dlfc decode` and `dlfc decode --allow-partial`. Each must end in a picture with
nothing else said, or in one error line, status 1 and no output; within 10 seconds of one core, 2 minutes of a busy
machine, and 1 GiB. Anything else, and any process that dies, is kept in build/fuzz and makes this program fail.

    python tests/fuzz/mutate.py [--files N] [--seconds S] [--workers W] [--seed N] [--model MODEL] [--seeds FOLDER]

With --by-neighbours the files are those of a model with a token prior, which is made for that.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from binascii import crc_hqx
from collections import Counter
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent.parent
VECTORS = ROOT / "formats" / "vectors"
KEPT = ROOT / "build" / "fuzz"
LIMIT_SECONDS = 10  # of the processor
LIMIT_WAIT_SECONDS = 120
LIMIT_BYTES = 1 << 30
CHUNK = 1000  # files of one process
FORGED_PX = 400  # sides of forged pictures
COMMANDS = (("info",), ("decode",), ("decode", "--allow-partial"))
_ERROR = re.compile(r"dlfc: in\.dlf: ([^\n]+)\n")
_PICTURE = re.compile(r"(dlfc: in\.dlf: note: the file is cut short[^\n]*\n)?in\.dlf -> out\.png  \d+x\d+ pixels\n")
_VARYING = re.compile(r"0x[0-9a-f]{2}|[0-9a-f]{8}|\d+(x\d+)?|'[^']*'|exif|icc|xmp")


# --- files --------------------------------------------------------------------------------------------------------


def sealed(data: bytes) -> bytes:
    """The file with a file check that fits, if it has a header."""
    at = 7
    for _ in range(2):
        while at < len(data) and data[at] & 0x80:
            at += 1
        at += 1
    if at + 3 > len(data):
        return data
    check = crc_hqx(data[at + 3 :], crc_hqx(data[: at + 1], 0xFFFF))
    return data[: at + 1] + check.to_bytes(2, "little") + data[at + 3 :]


def damaged(data: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """`data` with one to four changes of any kind, half of the time with a file check that fits."""
    found = bytearray(data)
    for _ in range(random.integers(1, 5)):
        at = int(random.integers(0, len(found) + 1))
        if random.random() < 0.4:
            at = min(at, int(random.integers(0, 40)))  # the header and the lengths
        length = int(random.integers(1, 9))
        match random.integers(0, 8):
            case 0 | 1 if at < len(found):
                found[at] ^= 1 << random.integers(0, 8)
            case 2 if at < len(found):
                found[at] = (0, 1, 0x7F, 0x80, 0xFF, int(random.integers(0, 256)))[random.integers(0, 6)]
            case 3:
                found[at:at] = random.bytes(length)
            case 4:
                del found[at : at + length]
            case 5:
                del found[at:]
            case 6:
                found[at:at] = found[at : at + 8 * length]
            case _:
                found[at:] = other[int(random.integers(0, len(other) + 1)) :]
    return sealed(bytes(found)) if random.random() < 0.5 else bytes(found)


def odd_sections(random: np.random.Generator) -> tuple[Any, ...]:
    """Optional sections of all kinds that hold anything, in any coding, and now and then far more than they seem to."""
    from dlfc.formats import Extra, deflate

    def payload() -> bytes:
        content = random.bytes(int(random.integers(0, 40)))
        match random.integers(0, 4):
            case 0:
                content = deflate(content)
            case 1:
                content = deflate(bytes(int(2 ** random.uniform(0, 26))))
        coding = bytes([random.integers(0, 6)])
        return coding + content if random.random() < 0.9 else content[:1]

    return tuple(Extra(kind, payload()) for kind in (1, 2, 3, 4, 5, 0x2A, 0x84, 0x85) if random.random() < 0.3)


def resized(data: bytes, random: np.random.Generator) -> bytes:
    """`data` with other fields in its header and checks that fit: sizes, quality, sections swapped, cut or added."""
    from dlfc.errors import DlfcError
    from dlfc.formats import pack, unpack

    try:
        fields = unpack(data)
    except DlfcError:
        return data
    sides = [int(2 ** random.uniform(0, 20)) for _ in range(2)]
    choices: list[dict[str, Any]] = [
        {"width_px": sides[0]},
        {"width_px": sides[0], "height_px": sides[1]},
        {"quality": int(random.integers(0, 201)) / 2},
        {"semantic": fields.detail, "detail": fields.semantic},
        {"semantic": random.bytes(int(random.integers(0, 200)))},
        {"detail": random.bytes(int(random.integers(0, 400)))},
        {"detail": fields.detail[: int(random.integers(0, len(fields.detail) + 1))]},
        {"symbol_check": int(random.integers(0, 1 << 16))},
        {"extras": odd_sections(random)},
        {"extras": odd_sections(random)},
    ]
    found = pack(replace(fields, **choices[random.integers(0, len(choices))]))
    return found[: -int(random.integers(1, 4))] if random.random() < 0.2 else found


def forged(codec: Any, random: np.random.Generator) -> bytes:
    """A file whose checks all fit and whose symbols no picture would give; half of them cut."""
    import torch

    from dlfc.entropy.coder import Encoder
    from dlfc.formats import Container, pack

    config = codec.model.network.config
    width, height = (int(side) for side in random.integers(1, FORGED_PX, 2))
    tiles, across = codec.tiling.tiles(width, height)
    tokens = random.integers(0, config.codebook_size, (tiles, config.tokens_per_tile)).astype(np.int32)
    semantic, detail = codec.model.tokens.pack(tokens, across), Encoder()
    check = crc_hqx(tokens.astype("<i4").tobytes(), crc_hqx(codec.fingerprint, 0xFFFF))
    quality, reach = int(random.integers(0, 201)) / 2, 2 ** random.uniform(0, 31)
    passes = codec.symbols.passes(quality, width, height, torch.from_numpy(tokens).long())
    for indices in passes:
        symbols = np.clip(random.normal(0, reach, len(indices)), -(2**31), 2**31 - 1).astype(np.int32)
        detail.put(symbols, indices, codec.model.detail_tables)
        passes.accept(symbols)
        check = crc_hqx(symbols.astype("<i4").tobytes(), check)
    data = pack(Container(codec.model_id, width, height, quality, check, semantic, detail.finish()))
    return data[: int(random.integers(0, len(data)))] if random.random() < 0.5 else data


def make_file(number: int, seed: int, seeds: list[bytes], codec: Any) -> tuple[str, bytes]:
    """File `number` and its kind; the same numbers give the same file."""
    random = np.random.default_rng([seed, number])
    one, other = (seeds[int(at)] for at in random.integers(0, len(seeds), 2))
    kind = ("damaged", "damaged", "damaged", "cut", "resized", "resized", "forged", "noise")[random.integers(0, 8)]
    match kind:
        case "damaged":
            return kind, damaged(one, other, random)
        case "cut":
            return kind, one[: int(random.integers(0, len(one) + 1))]
        case "resized":
            return kind, resized(one, random)
        case "forged":
            return kind, forged(codec, random)
        case _:
            head = one[: int(random.integers(0, 24))]
            return kind, sealed(head + random.bytes(int(random.integers(0, 300))))


# --- a worker: one process that takes a range of files ------------------------------------------------------------


@dataclass
class Tally:
    """What became of the files, and the worst of time and memory."""

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    extra_bytes: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.outcomes += other.outcomes
        self.reasons += other.reasons
        self.seconds = max(self.seconds, other.seconds)
        self.extra_bytes = max(self.extra_bytes, other.extra_bytes)
        self.failures += other.failures


def _memory(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def _run(command: tuple[str, ...], options: list[str]) -> tuple[int, str]:
    """Run one command line within this process; its status and what it wrote on standard error."""
    from dlfc.cli import main

    with tempfile.TemporaryFile() as err, open(os.devnull, "wb") as nowhere:
        kept = [os.dup(number) for number in (1, 2)]
        try:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = main([command[0], "in.dlf", *command[1:], *options])
            sys.stderr.flush()
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
        err.seek(0)
        return status, err.read().decode(errors="replace")


def _judge(command: tuple[str, ...], status: int, said: str, left: set[str]) -> tuple[str, str | None]:
    """The outcome of a run, and what is wrong with it."""
    from PIL import Image

    if status == 1:
        right = _ERROR.fullmatch(said) and left == {"in.dlf"}
        return "refused", None if right else f"status 1, files {sorted(left)}, said {said!r}"
    if status != 0:
        return "other", f"status {status}, said {said!r}"
    if command[0] == "info":
        return "told", None if not said and left == {"in.dlf"} else f"files {sorted(left)}, said {said!r}"
    lines = _PICTURE.fullmatch(said)
    if not lines or (lines[1] and len(command) == 1) or left != {"in.dlf", "out.png"}:
        return "picture", f"status 0, files {sorted(left)}, said {said!r}"
    with Image.open(BytesIO(Path("out.png").read_bytes())) as image:
        image.load()
    return ("part of a picture" if lines[1] else "picture"), None


def work(start: int, stop: int, seed: int, model: str | None, seeds: list[bytes], until: float) -> None:
    """Take the files of a range, those that time allows; say on standard output what became of them."""
    import torch
    import typer

    from dlfc import codec as codec_module
    from dlfc.cli.app import program

    torch.set_num_threads(1)
    codec = codec_module.Codec.load(model, device="cpu")
    codec_module.Codec.load = classmethod(lambda *_, **__: codec)  # type: ignore[assignment]
    whole = typer.main.get_command(program())
    typer.main.get_command = lambda typer_instance: whole  # made once, for it takes longer than a decode
    codec.decode(codec.encode(_small_picture()))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    base = _memory("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (base + 2 * LIMIT_BYTES,) * 2)
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number in range(start, stop):
            if time.time() > until:
                break
            print(number, file=sys.stderr, flush=True)  # if this process dies, this was the file
            kind, data = make_file(number, seed, seeds, codec)
            Path("in.dlf").write_bytes(data)
            for command in COMMANDS:
                Path("/proc/self/clear_refs").write_text("5")  # forget the highest memory
                before, begun = _memory("VmRSS"), time.process_time()
                signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
                signal.setitimer(signal.ITIMER_REAL, LIMIT_WAIT_SECONDS)
                status, said = _run(command, ["-o", "out.png", "-m", "any"] if command[0] == "decode" else [])
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.setitimer(signal.ITIMER_PROF, 0)
                seconds, extra = time.process_time() - begun, _memory("VmHWM") - before
                outcome, problem = _judge(command, status, said, set(os.listdir(".")))
                if extra > LIMIT_BYTES:
                    problem = f"{extra >> 20} MiB"
                if problem:
                    tally.failures.append(f"file {number} ({kind}), {' '.join(command)}: {problem}")
                tally.outcomes[f"{' '.join(command)}: {outcome}"] += 1
                tally.outcomes[f"{kind}: {outcome}"] += 1
                if found := _ERROR.fullmatch(said):
                    tally.reasons[_VARYING.sub("N", found[1])] += 1
                tally.seconds, tally.extra_bytes = max(tally.seconds, seconds), max(tally.extra_bytes, extra)
                Path("out.png").unlink(missing_ok=True)
        os.chdir("/")
    print(json.dumps(vars(tally)))


def _small_picture() -> Any:
    from PIL import Image

    return Image.linear_gradient("L").convert("RGB").resize((40, 30))


# --- the parent ---------------------------------------------------------------------------------------------------


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no file after this time")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=str(VECTORS / "model" / "vectors-1.safetensors"))
    parser.add_argument("--seeds", type=Path, default=VECTORS, help="folder of the .dlf files to damage")
    parser.add_argument("--by-neighbours", action="store_true", help="take a model with a token prior, and its files")
    parser.add_argument("--until", type=float, default=float("inf"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def _collect(process: subprocess.Popen[str], options: argparse.Namespace) -> Tally:
    """Wait for a worker; a dead one is a failure of the file that it was at."""
    out, err = process.communicate()
    if process.returncode == 0:
        fields = json.loads(out)
        return Tally(Counter(fields.pop("outcomes")), Counter(fields.pop("reasons")), **fields)
    numbers = re.findall(r"^\d+$", err, re.MULTILINE)
    late = process.returncode in (-signal.SIGALRM, -signal.SIGPROF)
    what = "took too long" if late else f"ended with {process.returncode}"
    rest = re.sub(r"^\d+\n", "", err, flags=re.MULTILINE)
    return Tally(failures=[f"file {numbers[-1] if numbers else '?'}: the process {what}: {rest[-1500:]}"])


def main() -> int:
    """Take the files that the options ask for; 1 if anything went wrong."""
    options = _options()
    if not options.by_neighbours or options.work:
        return _share(options, sys.argv)
    with tempfile.TemporaryDirectory() as folder:
        options.seeds = Path(folder)
        options.model = _make_by_neighbours(options.seeds)
        return _share(options, [*sys.argv, "--model", options.model, "--seeds", folder])


def _make_by_neighbours(folder: Path) -> str:
    """Write a model with a token prior, always the same, and files of it; the path of its weights."""
    sys.path.insert(0, str(ROOT / "tests"))
    from networks import install, photo

    from dlfc.codec import Codec

    entry = install(folder, by_neighbours=True)
    codec = Codec.load(str(entry.weights), device="cpu", precision="float32")
    for number, size in enumerate([(200, 150), (60, 400), (1, 1), (64, 64)]):
        (folder / f"{number}.dlf").write_bytes(codec.encode(photo(*size), quality=25 + 15 * number))
    return str(entry.weights)


def _share(options: argparse.Namespace, arguments: list[str]) -> int:
    """Share the files among workers, which get `arguments`, and print the counts; 1 if anything went wrong."""
    seeds = [path.read_bytes() for path in sorted(options.seeds.rglob("*.dlf"))]
    if options.work:
        start, stop = options.work
        work(start, stop, options.seed, options.model, seeds, options.until)
        return 0
    begun, until, total = time.monotonic(), time.time() + options.seconds, Tally()
    running: list[subprocess.Popen[str]] = []
    starts = iter(range(options.first, options.first + options.files, CHUNK))
    while True:
        wanted = len(running) < options.workers and time.time() < until
        start = next(starts, None) if wanted else None
        if start is not None:
            stop = min(start + CHUNK, options.first + options.files)
            command = [sys.executable, *arguments, "--work", str(start), str(stop), "--until", str(until)]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        elif running:
            total.add(_collect(running.pop(0), options))
        else:
            break
    for outcome, count in sorted(total.outcomes.items()):
        print(f"{count:7d}  {outcome}")
    print("why files were refused:")
    for reason, count in total.reasons.most_common():
        print(f"{count:7d}  {reason}")
    taken = sum(count for outcome, count in total.outcomes.items() if outcome.startswith("info: "))
    print(f"{taken} files in {time.monotonic() - begun:.0f} s;", end=" ")
    print(f"the longest took {total.seconds:.2f} s of the processor,", end=" ")
    print(f"the most memory beyond what was in use was {total.extra_bytes / 2**20:.0f} MiB")
    for failure in total.failures:
        print(f"FAILED: {failure}")
    _keep(total.failures, options, seeds)
    return 1 if total.failures else 0


def _keep(failures: list[str], options: argparse.Namespace, seeds: list[bytes]) -> None:
    """Write the files that failed to build/fuzz."""
    numbers = {int(found[1]) for failure in failures if (found := re.match(r"file (\d+)", failure))}
    if not numbers:
        return
    from dlfc.codec import Codec

    KEPT.mkdir(parents=True, exist_ok=True)
    codec = Codec.load(options.model, device="cpu")
    for number in sorted(numbers):
        target = KEPT / f"{options.seed}-{number}.dlf"
        target.write_bytes(make_file(number, options.seed, seeds, codec)[1])
        print(f"kept as {target}")


if __name__ == "__main__":
    sys.exit(main())
