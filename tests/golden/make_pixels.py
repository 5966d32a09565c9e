"""Makes the golden pixels of coffee.jpg, once: python tests/golden/make_pixels.py

Written in Pillow calls alone, a line or two a fit, from the rules in the README.
"""

from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
S = 64


def main() -> None:
    squares = {}
    for name in ("plain", "reduced"):

        def photo(width: int, height: int, reduce: bool = name == "reduced") -> Image.Image:
            image = Image.open(HERE.parent / "data" / "coffee.jpg")
            if reduce:
                image.draft(None, (2 * width, 2 * height))
            return image.resize((width, height), Image.Resampling.BICUBIC)

        squares[f"{name}_stretch"] = np.asarray(photo(S, S))[None]
        squares[f"{name}_crop"] = np.asarray(photo(96, S).crop((16, 0, 80, 64)))[None]
        padded = np.pad(np.asarray(photo(S, 43)), ((10, 11), (0, 0), (0, 0)), mode="edge")
        squares[f"{name}_pad"] = padded[None]
    np.savez_compressed(HERE / "coffee-pixels.npz", **squares)


if __name__ == "__main__":
    main()
