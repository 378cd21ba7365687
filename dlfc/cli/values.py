"""What the text of an option stands for; typer.BadParameter says what is wrong with one that stands for nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import typer

from dlfc.formats import nearest_quality

DEVICES = ("auto", "cpu", "cuda")
ENGINES = ("local", "ray")


def parse_count(value: str | int) -> int:
    """Return a whole number from 1 up."""
    text = str(value)
    if not re.fullmatch(r"0*[1-9][0-9]{0,17}", text):
        raise typer.BadParameter(f"{text!r} is not a whole number from 1 up")
    return int(text)


def parse_quality(value: str | float) -> float:
    """Return the quality that a file can state and that is nearest to what was asked for."""
    return nearest_quality(_number(str(value), 100))


def parse_qualities(text: str) -> str:
    """Return a list of qualities, separated by commas, without the spaces in it."""
    return _list(text, 100)


def parse_levels(text: str) -> str:
    """Return a list of qualities of a training run, which may lie a little beyond its highest level."""
    return _list(text, 120)


def _list(text: str, highest: int) -> str:
    names = [name.strip() for name in text.split(",")]
    if len({_number(name, highest) for name in names}) < len(names):
        raise typer.BadParameter(f"{text!r} names a quality twice")
    return ",".join(names)


def _number(text: str, highest: int) -> float:
    if not re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", text) or float(text) > highest:
        raise typer.BadParameter(f"{text!r} is not a number from 0 to {highest}")
    return float(text)


# A bare K may mean either; of the smaller one, no file is above what was meant.
_UNITS = {"": 1, "B": 1, "K": 10**3, "KB": 10**3, "KIB": 2**10, "M": 10**6, "MB": 10**6, "MIB": 2**20}


def parse_size(value: str | int) -> int:
    """Return a size in bytes, rounded down."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12}) ?([A-Za-z]*)", str(value))
    if match is None or match[2].upper() not in _UNITS:
        raise typer.BadParameter(f"{str(value)!r} is not a size such as 800, 2KB (2000 bytes) or 2KiB (2048 bytes)")
    from fractions import Fraction

    size_bytes = math.floor(Fraction(match[1]) * _UNITS[match[2].upper()])
    if size_bytes < 1:
        raise typer.BadParameter(f"{str(value)!r} is less than one byte")
    return size_bytes


def parse_bpp(value: str | float) -> float:
    """Return a rate above 0 in bits per pixel."""
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?|\.[0-9]+", text) or float(text) <= 0:
        raise typer.BadParameter(f"{text!r} is not a rate in bits per pixel such as 0.02")
    return float(text)


def parse_effort(value: str | int) -> int:
    """Return an effort from 1 to 9."""
    text = str(value)
    if not re.fullmatch(r"[1-9]", text):
        raise typer.BadParameter(f"{text!r} is not a whole number from 1 to 9")
    return int(text)


def parse_keep(text: str) -> str:
    """Return the names of metadata to keep, as they were given."""
    from dlfc import keep

    try:
        keep.parse_keep(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return text


def parse_engine(text: str) -> str:
    """Return the name of an engine."""
    return _one_of(ENGINES, text)


def parse_device(text: str) -> str:
    """Return the name of a device."""
    return _one_of(DEVICES, text)


def _one_of(names: Sequence[str], text: str) -> str:
    if text not in names:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(names)}")
    return text


def complete_device(incomplete: str) -> list[str]:
    """Return the devices whose names begin so."""
    return [device for device in DEVICES if device.startswith(incomplete)]


def complete_engine(incomplete: str) -> list[str]:
    """Return the engines whose names begin so."""
    return [engine for engine in ENGINES if engine.startswith(incomplete)]
