"""Blocks: the borders of patches, where they can be seen in a decoded image."""

import torch
from torch import Tensor

_HALF_A_LEVEL = 1 / 255  # of 8-bit pixels, normalized to deviation 0.5: smaller is not seen


def blockiness(pixels: Tensor, patch_size: int) -> Tensor:
    """Mean size of the kinks across the borders of patches, of normalized pixels [B, 3, s, s].

    Patches are of 2 pixels or more; kinks of less than half a level count as one of half a level.

    A kink is the step from patch to patch less the mean of the slopes beside it, as in the mean
    squared difference of slope of Minami and Zakhor (IEEE Transactions on Circuits and Systems for
    Video Technology 5(2), 1995). Here it is not squared, as small ones in smooth places are what
    is seen.
    """
    across = [x.diff(n=3)[..., patch_size - 2 :: patch_size] / 2 for x in (pixels, pixels.mT)]
    return (torch.cat(across).square() + _HALF_A_LEVEL**2).sqrt().mean()
