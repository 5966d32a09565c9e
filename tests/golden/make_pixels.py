"""Makes the golden pixels of coffee.jpg, once: python tests/golden/make_pixels.py

Written in Pillow calls alone, a line or two a fit, from the rules in the README.
"""

from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
S = 64


def direct() -> dict[str, np.ndarray]:
    """Straight to 32 pixels, which are what a model sees of 64; all from an eighth of the JPEG."""

    def photo(width: int, height: int, box: tuple[float, ...], below: int = 0) -> Image.Image:
        image = Image.open(HERE.parent / "data" / "coffee.jpg")
        image.draft(None, (S // 2, S // 2))
        assert image.size == (75, 50)
        rows = np.pad(np.asarray(image), ((0, below), (0, 0), (0, 0)), mode="edge")
        return Image.fromarray(rows).resize((width, height), Image.Resampling.BICUBIC, box)

    stretched = photo(32, 32, (0, 0, 75, 50))
    cropped = photo(32, 32, (12.5, 0, 62.5, 50))
    # 43 of 64 rows, from the tenth on, are 21.5 of 32, and the last half is the image's edge.
    part = np.asarray(photo(32, 22, (0, 0, 75, 44 * 50 / 43), below=2))
    padded = np.pad(part, ((5, 5), (0, 0), (0, 0)), mode="edge")
    squares = {"stretch": np.asarray(stretched), "crop": np.asarray(cropped), "pad": padded}
    return {f"direct_{fit}": pixels[None] for fit, pixels in squares.items()}


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
    squares |= direct()
    np.savez_compressed(HERE / "coffee-pixels.npz", **squares)


if __name__ == "__main__":
    main()
