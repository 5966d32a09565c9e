"""Can decoded images be told from originals?

python tests/benchmarks/two_sample.py PHOTOS --weights NAME [--weights NAME...]

For each checkpoint, a small network learns on half of the photos in a folder, chosen by the hash of
their names, to tell crops of decoded 256x256 images from the same crops of their originals.
Prints how often it is right on the other half, in percent with the standard error over photos: 50
where it cannot tell, the smaller the better. This is done twice: on the images as they are, where
a model that sees only half the pixels is soon found out, and on their means of 2x2 pixels.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from reading import CENTRE
from torch import Tensor, nn

from tokcodec import Codec
from tokcodec.config import PreprocessingConfig
from tokcodec.image import read_tiles

CROP = 64
STEPS = 400
PHOTOS_A_STEP = 16
CROPS_A_PHOTO = 4  # of the photos that it is tested on


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", action="append", required=True)
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.photos.iterdir() if path.is_file())
    read = [read_tiles(path, PreprocessingConfig(), CENTRE).pixels for path in paths]
    originals = torch.from_numpy(np.concatenate(read)).permute(0, 3, 1, 2)
    tested = torch.tensor([hashlib.sha256(p.name.encode()).digest()[0] % 2 == 1 for p in paths])
    for name in arguments.weights:
        codec = Codec.load(name)
        decoded = (codec.decode(codec.encode(originals / 255)) * 255).round().byte().cpu()
        for scale in (1, 2):
            right = rights(originals, decoded, tested, scale)
            error = right.std() / len(right) ** 0.5
            side = originals.shape[-1] // scale
            print(f"{name}: {side}x{side}: {100 * right.mean():.1f} ± {100 * error:.1f} % right")


def rights(originals: Tensor, decoded: Tensor, tested: Tensor, scale: int) -> Tensor:
    """The share of crops of each tested photo that the network knows for what they are.

    Images are uint8 [n, 3, S, S], ``tested`` bool [n].
    """
    torch.manual_seed(0)  # of the network; all else is drawn from the generator
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential()
    for before, width in ((3, 32), (32, 64), (64, 128), (128, 128)):
        convolution = nn.Conv2d(before, width, 3, stride=2, padding=1)
        network.extend([convolution, nn.BatchNorm2d(width), nn.ReLU()])
    network.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 1)])
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

    def margins(picks: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n] of a crop of each original and of the same one of each decoded image."""
        side = scale * CROP
        corners = torch.randint(originals.shape[-1] - side + 1, (2,), generator=generator)
        top, left = corners.tolist()
        pairs = (x[picks, :, top : top + side, left : left + side] for x in (originals, decoded))
        crops = F.avg_pool2d(torch.cat(list(pairs)).float() / 127.5 - 1, scale)
        of_originals, of_decoded = network(crops).flatten().chunk(2)
        return of_originals, of_decoded

    learned = (~tested).nonzero().flatten()
    for _ in range(STEPS):
        drawn = torch.randint(len(learned), (PHOTOS_A_STEP,), generator=generator)
        of_originals, of_decoded = margins(learned[drawn])
        loss = F.softplus(-of_originals).mean() + F.softplus(of_decoded).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    shares = []
    with torch.inference_mode():
        for _ in range(CROPS_A_PHOTO):
            of_originals, of_decoded = margins(tested.nonzero().flatten())
            shares.append(((of_originals > 0).float() + (of_decoded <= 0).float()) / 2)
    return torch.stack(shares).mean(dim=0)


if __name__ == "__main__":
    main()
