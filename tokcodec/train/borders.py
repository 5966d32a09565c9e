"""How visible the borders of patches are in a decoded image."""

import torch
from torch import Tensor

_HALF_A_LEVEL = 1 / 255  # of 8-bit pixels, normalized to deviation 0.5; less is not visible


def blockiness(pixels: Tensor, patch_size: int) -> Tensor:
    """Mean size of the kinks at the borders of patches, of normalized pixels [B, 3, H, W].

    Patches have 2 pixels or more; kinks of less than half a level count as half a level.

    A kink is the step from patch to patch minus the mean of the slopes on both sides, as in the
    mean squared difference of slope of Minami and Zakhor (IEEE Transactions on Circuits and Systems
    for Video Technology 5(2), 1995). Here it is not squared, because small ones in smooth places
    are what people see.
    """
    kinks = [
        (x.diff(n=3)[..., patch_size - 2 :: patch_size] / 2).flatten() for x in (pixels, pixels.mT)
    ]
    return (torch.cat(kinks).square() + _HALF_A_LEVEL**2).sqrt().mean()
