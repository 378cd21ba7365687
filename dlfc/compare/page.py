"""The page itself: HTML that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from dlfc.compare.versions import Embedded, Level, Photo, Version
from dlfc.files import display_name

_TEMPLATE, _STYLE, _SCRIPT = (files(__package__).joinpath(name) for name in ("page.html", "page.css", "page.js"))


def page(photos: Sequence[Photo], maker: str) -> bytes:
    """The page in UTF-8; `maker` says what made the files."""
    first = display_name(photos[0].name)
    others = f" and {len(photos) - 1} more" if len(photos) > 1 else ""
    text = Template(_TEMPLATE.read_text("utf-8")).substitute(
        title=escape(f"{first}{others}"),
        style=_STYLE.read_text("utf-8"),
        script=_SCRIPT.read_text("utf-8"),
        contents=_contents(photos) if len(photos) > 1 else "",
        photos="\n".join(_section(at, photo) for at, photo in enumerate(photos, 1)),
        maker=escape(maker),
    )
    return text.encode()


def _contents(photos: Sequence[Photo]) -> str:
    links = (f'<li><a href="#photo-{at}">{_name(photo)}</a></li>' for at, photo in enumerate(photos, 1))
    return f'<nav aria-label="Photos"><ul>{"".join(links)}</ul></nav>'


def _section(at: int, photo: Photo) -> str:
    original = Version("Original", "", photo.file_bytes, 0, photo.picture)
    rows = "\n".join(_row(photo, level) for level in photo.levels)
    across = max(3, 1 + len(photo.levels[0].others))
    sizes = f"--width: {photo.width_px}; --height: {photo.height_px}; --across: {across}"
    return f"""<section class="photo" id="photo-{at}" style="{sizes}">
<h2>{_name(photo)}</h2>
<p class="facts">{photo.width_px} × {photo.height_px} pixels, a file of {photo.file_bytes:,} bytes</p>
<div class="player"></div>
<div class="versions">
<div class="row original">{_figure(photo, original)}</div>
{rows}
</div>
</section>"""


def _row(photo: Photo, level: Level) -> str:
    versions = "\n".join(_figure(photo, version) for version in (level.dlf, *level.others))
    return f"""<h3>-q {level.quality:g}: {level.dlf.file_bytes:,} bytes</h3>
<div class="row">
{versions}
</div>"""


def _figure(photo: Photo, version: Version) -> str:
    size = f"{version.file_bytes:,} bytes"
    bpp = 8 * version.file_bytes / (photo.width_px * photo.height_px)
    remark = ""
    if version.times > 1:
        remark = f'<span class="larger">its smallest file, {version.times:.1f} times as large</span>'
    setting = f"<span>{escape(version.setting)}</span>" if version.setting else ""
    label = escape(f"{version.codec}, {size}")
    return f"""<figure>
<button type="button" data-label="{label}"><img src="{_address(version.picture)}" width="{photo.width_px}" \
height="{photo.height_px}" alt="{label}"></button>
<figcaption><strong>{escape(version.codec)}</strong> <span>{size}</span> <span>{bpp:.4f} bpp</span> {setting}{remark}\
</figcaption>
</figure>"""


def _name(photo: Photo) -> str:
    return escape(display_name(photo.name))


def _address(picture: Embedded) -> str:
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"
