"""`dlfc compare`: what the page says, that it needs nothing but itself, and how it behaves in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from conftest import Finished, picture
from PIL import Image, features

from dlfc.companions import Prepared
from dlfc.compare.versions import Version, versions_of
from dlfc.evaluate.ordinary import ORDINARY
from dlfc.formats import Extra

Run = Callable[..., Finished]
PHOTO = Path(__file__).parent / "data" / "photo.png"


class _CodecOfSize:
    """Makes files of a given number of bytes for each quality, and decodes them to gray."""

    name = "fixed"

    def __init__(self, size_px: tuple[int, int], **sizes_bytes: int) -> None:
        self._size_px = size_px
        self._sizes_bytes = sizes_bytes

    def encode(self, image: Image.Image, *, quality: float, extras: tuple[Extra, ...], max_pixels: int) -> bytes:
        return bytes(self._sizes_bytes[f"q{quality:g}"])

    def decode(self, data: bytes, *, max_pixels: int) -> Image.Image:
        return Image.new("RGB", self._size_px, "gray")


@pytest.fixture(scope="module")
def webp_files() -> dict[str, Version]:
    """What WebP makes of the photograph beside .dlf files of 20, 700 and 60000 bytes."""
    with Image.open(PHOTO) as file:
        prepared = Prepared(file.convert("RGB"))
    codec = _CodecOfSize(prepared.image.size, q0=20, q50=700, q100=60000)
    photo = versions_of("photo.png", 1, prepared, codec, [0, 50, 100], [ORDINARY["webp"]], 2**24)  # type: ignore[arg-type]
    return {f"{level.quality:g}": level.others[0] for level in photo.levels}


def test_an_ordinary_file_is_never_larger_than_the_dlf_file_beside_it(webp_files: dict[str, Version]) -> None:
    assert 500 < webp_files["50"].file_bytes <= 700
    assert 40000 < webp_files["100"].file_bytes <= 60000
    assert webp_files["50"].times <= 1
    assert "full size" in webp_files["100"].setting
    assert "full size" not in webp_files["50"].setting


def test_where_no_ordinary_file_is_so_small_the_smallest_is_taken(webp_files: dict[str, Version]) -> None:
    smallest = webp_files["0"]
    assert smallest.file_bytes > 20
    assert smallest.times == smallest.file_bytes / 20
    assert smallest.setting == "quality 0, quarter size"
    assert len(smallest.picture.data) == smallest.file_bytes  # it is in the page as it is


def test_the_page_holds_all_versions_with_their_sizes_and_needs_no_network(dlfc: Run, photo: Path) -> None:
    photo.rename("a & b.png")
    run = dlfc("compare", "a & b.png", "-o", "page.html", "-q", "10,90", "--against", "webp")
    assert (run.status, run.out) == (0, "")
    assert re.fullmatch(r"a & b\.png  \d+, \d+ bytes\npage\.html  \d\.\d MB\n", run.err)
    page = Path("page.html").read_text("utf-8")
    assert "<h2>a &amp; b.png</h2>" in page
    labels = re.findall(r'data-label="([^"]*)"', page)
    assert [label.split(",")[0] for label in labels] == ["Original", "dlfc", "WebP", "dlfc", "WebP"]
    assert labels[0] == f"Original, {Path('a & b.png').stat().st_size:,} bytes"
    assert page.count('src="data:image/webp;base64,') == 5
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "https:" not in page
    assert "http:" not in page
    assert "is generated" in page
    assert "times as large" in page  # WebP has no file of so few bytes


def test_an_existing_page_is_kept_unless_forced(dlfc: Run, photo: Path) -> None:
    Path("page.html").write_text("mine")
    run = dlfc("compare", "photo.png", "-o", "page.html", "--against", "none")
    assert (run.status, run.err) == (1, "dlfc: page.html: already exists; use -f to overwrite it\n")
    assert Path("page.html").read_text() == "mine"
    assert dlfc("compare", "photo.png", "-o", "page.html", "--against", "none", "-f", "--quiet").err == ""
    assert Path("page.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("output", ["photo.png", "./photo.png", "link.html"])
def test_a_photo_is_not_overwritten_by_the_page(dlfc: Run, photo: Path, output: str) -> None:
    before = photo.read_bytes()
    Path("link.html").symlink_to("photo.png")
    run = dlfc("compare", "photo.png", "-o", output, "-f")
    assert run.status == 2
    assert f"{output} is an input and would be overwritten" in run.err
    assert photo.read_bytes() == before


def test_what_is_no_picture_is_one_line_and_the_others_are_on_the_page(dlfc: Run, photo: Path) -> None:
    Path("text.png").write_text("no picture")
    run = dlfc("compare", "text.png", "photo.png", "missing.png", "-o", "-", "--against", "none")
    assert run.status == 1
    assert [line.split(": ")[:2] for line in run.err.splitlines() if line.startswith("dlfc")] == [
        ["dlfc", "text.png"],
        ["dlfc", "missing.png"],
    ]
    assert run.out.count("<section") == 1
    assert dlfc("compare", "missing.png", "-o", "page.html").status == 1
    assert not Path("page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["photo.png"], "missing option"),
        (["photo.png", "-o", "p.html", "-q", "5,101"], "invalid value for '-q' / '--qualities'"),
        (["photo.png", "-o", "p.html", "-q", "5,5.0"], "names a quality twice"),
        (["photo.png", "-o", "p.html", "--against", "gif"], "--against has 'gif', which is none of jpeg, webp, avif"),
        (["-", "-o", "p.html"], "standard input (-) has no name to show"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(dlfc: Run, photo: Path, arguments: list[str], problem: str) -> None:
    run = dlfc("compare", *arguments)
    assert (run.status, run.out) == (2, "")
    assert problem in run.err
    assert not Path("p.html").exists()


_USE_THE_PAGE = """<script>
addEventListener("load", () => setTimeout(() => {
  const photo = document.querySelector(".photo"), view = photo.querySelector(".view");
  const right = photo.querySelectorAll(".sheet img")[1];
  const look = () => ({
    tags: [...photo.querySelectorAll(".tag")].map((tag) => tag.textContent.split(",")[0]),
    clip: parseFloat(right.style.clipPath.split(" ")[3]) / view.clientWidth,
    enlarged: view.scrollWidth / view.clientWidth,
    pressed: [...photo.querySelectorAll("figure button")].findIndex((each) => each.ariaPressed === "true"),
  });
  const press = (key) => { view.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })); return look(); };
  const wide = [...document.querySelectorAll("body *")].filter(
    (each) => !each.closest(".view") && each.getBoundingClientRect().right > innerWidth + 1);
  const seen = {
    width: innerWidth,
    wide: wide.map((each) => each.outerHTML.slice(0, 80)),
    loaded: [...document.images].every((image) => image.complete && image.naturalWidth > 0),
    start: look(), moved: press("ArrowRight"), swapped: press("x"),
    picked: (photo.querySelectorAll("figure button")[2].click(), look()),
    enlarged: press("+"), whole: press("0"),
    focusable: view.tabIndex,
  };
  parent.postMessage(JSON.stringify(seen), "*");
}, 300));
</script></body>"""
_ON_A_PHONE = """<body style="margin: 0"><iframe src="page.html"
style="width: 390px; height: 844px; border: 0"></iframe><script>
onmessage = (event) => { document.body.dataset.seen = event.data; };</script></body>"""


def test_the_page_works_from_the_keyboard_and_on_a_phone(dlfc: Run, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    picture(600, 400).save("photo.png")
    against = "webp,avif" if features.check("avif") else "webp"
    assert dlfc("compare", "photo.png", "-o", "page.html", "-q", "0,50,100", "--against", against).status == 0
    page = Path("page.html").read_text("utf-8")
    Path("page.html").write_text(page.replace("</body>", _USE_THE_PAGE), "utf-8")
    Path("phone.html").write_text(_ON_A_PHONE)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    command = [browser, *flags, "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "phone.html").as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    match = re.search(r'data-seen="([^"]*)"', run.stdout)
    assert match, run.stderr
    seen = json.loads(unescape(match[1]))
    assert (seen["width"], seen["wide"], seen["loaded"], seen["focusable"]) == (390, [], True, 0)
    assert seen["start"]["tags"] == ["Original", "dlfc"]
    assert seen["start"]["clip"] == pytest.approx(0.5, abs=0.01)
    assert seen["moved"]["clip"] == pytest.approx(0.52, abs=0.01)
    assert seen["swapped"]["tags"] == ["dlfc", "Original"]
    assert (seen["picked"]["tags"], seen["picked"]["pressed"]) == (["dlfc", "WebP"], 2)
    assert seen["enlarged"]["enlarged"] == pytest.approx(2**0.5, abs=0.01)
    assert seen["whole"]["enlarged"] == 1
