"""Makes kodak.jpg: all decoded photos of a folder on one sheet.

`dlfc encode -q 50 --output-dir files KODAK/*.png; dlfc decode --output-dir pictures files/*.dlf;
python docs/make_sheet.py pictures docs/kodak.jpg`
"""

import sys
from pathlib import Path

from PIL import Image

COLUMNS, WIDTH_PX, HEIGHT_PX = 6, 256, 171


def main() -> None:
    """Put the pictures in rows, in the order of their names."""
    folder, out = sys.argv[1:]
    files = sorted(Path(folder).glob("*.png"))
    rows = -(-len(files) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * WIDTH_PX, rows * HEIGHT_PX), "white")
    for i, file in enumerate(files):
        with Image.open(file) as picture:
            small = picture.convert("RGB")
        small.thumbnail((WIDTH_PX - 4, HEIGHT_PX - 4), Image.Resampling.LANCZOS)
        sheet.paste(small, (i % COLUMNS * WIDTH_PX, i // COLUMNS * HEIGHT_PX))
    sheet.save(out, quality=85)


if __name__ == "__main__":
    main()
