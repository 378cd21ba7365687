"""What is kept of a picture besides its pixels, as `--keep` says it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Keep:
    """What is kept of a picture besides its pixels, as bytes or, for `colour`, as one byte for a known profile.

    Without `alpha`, transparent parts are laid over white; with `grain`, the strength of noise is kept. `asked` says
    that someone chose this, who need not be told which metadata are dropped.
    """

    icc: bool = False
    exif: bool = False
    xmp: bool = False
    colour: bool = False
    alpha: bool = False
    grain: bool = False
    asked: bool = True


USUAL = Keep(colour=True, alpha=True, grain=True, asked=False)
PIXELS_ONLY = Keep()
KEEP_NAMES = ("icc", "exif", "xmp")


def parse_keep(text: str) -> Keep:
    """What `--keep` asks for: names with commas between them, `all` or `none`. Raises ValueError."""
    names = set(KEEP_NAMES if text == "all" else () if text == "none" else text.split(","))
    if names - set(KEEP_NAMES):
        raise ValueError(f"{text!r} is neither all nor none nor a list of {', '.join(KEEP_NAMES)}")
    return Keep(**dict.fromkeys(names, True), colour=text != "none", alpha=True, grain=True)
