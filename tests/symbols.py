"""One process among several that must read the same symbols: codes pictures, then reads the files of everyone.

What it gets is one line of JSON on standard input, a `Task`. It answers with one line: the files that it made, each
with the name of its model, in hexadecimal. Then it gets a line with such files, those of all processes, and answers
with what it is, and the digest of the tokens and the latent of each file. It imports nothing of the tests, so it also
runs under an interpreter that has dlfc and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

File: TypeAlias = tuple[str, str]  # the name of a model, and bytes in hexadecimal


@dataclass(frozen=True)
class Task:
    """What to encode, as model, path and quality, with which models, and how."""

    models: Sequence[tuple[str, str]]  # name and folder
    pictures: Sequence[tuple[str, str, float]]
    packed: bool = False  # weights in bfloat16, where processor and torch multiply those faster
    channels_last: bool = False
    together: bool = False  # small pictures of one padded size go through the network in one batch
    backwards: bool = False  # the last picture and the last file come first


@dataclass(frozen=True)
class Answer:
    """What one process is, and the digests of the symbols of all files."""

    torch: str
    threads: int
    packed: bool
    digests: list[str]


def ask(
    processes: Mapping[str, tuple[Sequence[str], Mapping[str, str], Task]], more: Sequence[File] = ()
) -> dict[str, tuple[list[File], Answer]]:
    """Start all processes, by name: command, environment and task; let each read what any of them made, and `more`."""
    running: dict[str, subprocess.Popen[str]] = {}
    for name, (command, environment, task) in processes.items():
        running[name] = subprocess.Popen(
            [*command, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        _tell(running[name], asdict(task))
    try:
        made = {name: [(model, data) for model, data in _hear(name, process)] for name, process in running.items()}
        everything = [file for files in made.values() for file in files] + list(more)
        for process in running.values():
            _tell(process, everything)
        answers = {name: Answer(**_hear(name, process)) for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    return {name: (made[name], answers[name]) for name in processes}


def _tell(process: subprocess.Popen[str], what: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(what) + "\n")
    process.stdin.flush()


def _hear(name: str, process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the process {name!r} ended early"
    return json.loads(line)


# --- within the process ---------------------------------------------------------------------------------------------


def main() -> None:
    """Do a task."""
    import torch

    from dlfc.codec import Codec
    from dlfc.model.linear import can_pack

    task = Task(**json.loads(sys.stdin.readline()))
    precision = "bfloat16" if task.packed and can_pack() else "float32"
    codecs = {
        name: Codec.load(name, device="cpu", models_dir=Path(folder), precision=precision)
        for name, folder in task.models
    }
    if task.channels_last:
        for codec in codecs.values():
            codec.model.network.to(memory_format=torch.channels_last)
    print(json.dumps(_made(codecs, task)), flush=True)
    digests = _digests(codecs, task, json.loads(sys.stdin.readline()))
    packed = any(
        getattr(module, "packed", None) is not None
        for codec in codecs.values()
        for module in codec.model.network.modules()
    )
    print(json.dumps(asdict(Answer(torch.__version__, torch.get_num_threads(), packed, digests))), flush=True)


def _made(codecs: Mapping[str, Any], task: Task) -> list[File]:
    from PIL import Image

    found: dict[int, File] = {}
    for places in _batches([(model, quality) for model, _, quality in task.pictures], task):
        model, _, quality = task.pictures[places[0]]
        images = []
        for at in places:
            with Image.open(task.pictures[at][1]) as image:
                images.append(image.convert("RGB"))
        files = codecs[model].encode_many(images, quality=quality)
        found |= {at: (model, data.hex()) for at, data in zip(places, files, strict=True)}
    return [found[at] for at in range(len(task.pictures))]


def _digests(codecs: Mapping[str, Any], task: Task, files: Sequence[File]) -> list[str]:
    from dlfc.formats import unpack

    containers = [unpack(bytes.fromhex(data)) for _, data in files]
    kinds = []
    for (model, _), container in zip(files, containers, strict=True):
        tile_px = codecs[model].model.network.config.tile_px
        kinds.append((model, -(-container.width_px // tile_px), -(-container.height_px // tile_px)))
    found: dict[int, str] = {}
    for places in _batches(kinds, task):
        codec = codecs[kinds[places[0]][0]]
        tokens, latents = codec.symbols.read(*(containers[at] for at in places))
        parts = zip(places, tokens.chunk(len(places)), latents, strict=True)
        for at, mine, latent in parts:
            found[at] = hashlib.sha256(mine.numpy().tobytes() + latent.contiguous().numpy().tobytes()).hexdigest()
    return [found[at] for at in range(len(files))]


def _batches(kinds: Sequence[object], task: Task) -> list[list[int]]:
    """The places of `kinds` in the order of the task: up to three of a kind at a time, or one."""
    places = list(range(len(kinds)))
    if task.backwards:
        places.reverse()
    if not task.together:
        return [[at] for at in places]
    by_kind: dict[object, list[int]] = {}
    for at in places:
        by_kind.setdefault(kinds[at], []).append(at)
    return [members[at : at + 3] for members in by_kind.values() for at in range(0, len(members), 3)]


if __name__ == "__main__":
    main()
