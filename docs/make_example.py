"""Makes example.jpg: a photograph beside what `dlfc` leaves of it at some qualities.

`python docs/make_example.py tests/data/photo.png docs/example.jpg 25 75`
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image


def main() -> None:
    """Encode and decode in processes of their own, and put the pictures side by side."""
    photo, out, *qualities = sys.argv[1:]
    pictures = [Image.open(photo).convert("RGB")]
    with tempfile.TemporaryDirectory() as folder:
        for quality in qualities:
            file, picture = Path(folder) / f"{quality}.dlf", Path(folder) / f"{quality}.png"
            subprocess.run(
                [sys.executable, "-m", "dlfc.cli", "encode", photo, "-o", str(file), "-q", quality], check=True
            )
            subprocess.run([sys.executable, "-m", "dlfc.cli", "decode", str(file), "-o", str(picture)], check=True)
            pictures.append(Image.open(picture).convert("RGB"))
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width * len(pictures) + 8 * (len(pictures) - 1), height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i * (width + 8), 0))
    sheet.save(out, quality=85)


if __name__ == "__main__":
    main()
