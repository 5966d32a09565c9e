"""Originals and reconstructions side by side: python tests/benchmarks/sheet.py OUT.png PHOTO...

A row a photo: the original, then each bundled checkpoint, under its bytes.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from tokcodec import Codec
from tokcodec.checkpoint import bundled
from tokcodec.picture import read_squares, save

SIDE, HEAD = 256, 24


def main() -> None:
    out, *photos = sys.argv[1:]
    codecs = [Codec.load(header) for header in bundled()]
    sheet = Image.new(
        "RGB", ((SIDE + 4) * (1 + len(codecs)), HEAD + (SIDE + 4) * len(photos)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for row, photo in enumerate(photos):
        square = read_squares(photo, codecs[0].config.preprocessing, "crop").pixels[0]
        images = [Image.fromarray(square)]
        heads = [f"original, {square.size:,} bytes raw"]
        for codec in codecs:
            token_file = codec.compress(images[0])
            images.append(codec.decompress(token_file))
            heads.append(f"{codec.header.name}, {token_file.file_bytes} bytes")
        for column, image in enumerate(images):
            sheet.paste(image, (column * (SIDE + 4), HEAD + row * (SIDE + 4)))
            if not row:
                draw.text((column * (SIDE + 4) + 4, 4), heads[column], "black", font_size=14)
    save(sheet, Path(out))


if __name__ == "__main__":
    main()
