"""Makes the JPEGs in torchvision/ and what torchvision makes of them, once, with torchvision 0.29:

python tests/golden/make_torchvision.py
"""

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import transforms

HERE = Path(__file__).parent
FOLDER = HERE / "torchvision"

# A photo of tests/data, and the part of it: left, top, right, bottom.
IMAGES = {
    "landscape": ("coffee.png", (0, 0, 600, 400)),
    "portrait": ("astronaut.png", (100, 0, 400, 512)),
    "odd": ("chelsea.png", (3, 2, 440, 299)),
    "narrow": ("chelsea.png", (0, 0, 67, 299)),
    "tiny": ("astronaut.png", (200, 80, 231, 97)),
    "exact": ("coffee.png", (120, 30, 461, 286)),
}


def main() -> None:
    fit = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC, antialias=True),
            transforms.CenterCrop(256),
        ]
    )
    FOLDER.mkdir(exist_ok=True)
    squares = {}
    for name, (photo, part) in IMAGES.items():
        path = FOLDER / f"{name}.jpg"
        Image.open(HERE.parent / "data" / photo).convert("RGB").crop(part).save(path, quality=85)
        squares[name] = np.asarray(fit(Image.open(path)))
    np.savez_compressed(FOLDER / "squares.npz", **squares)


if __name__ == "__main__":
    main()
