"""Winograd's convolution against the direct sum, in double precision."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tokcodec.model.winograd import convolve


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 140),
    channels=st.integers(1, 5),
    outputs=st.integers(1, 4),
    bias=st.booleans(),
    double=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_convolution(rows, columns, channels, outputs, bias, double, seed):
    generator = torch.Generator().manual_seed(seed)
    step = 2 if double else 4
    x = torch.randn(1, channels, step * rows, step * columns, generator=generator)
    weight = torch.randn(outputs, channels, 3, 3, generator=generator)
    shift = torch.randn(outputs, generator=generator) if bias else None
    result = convolve(x.to(memory_format=torch.channels_last), weight, shift, double)
    if double:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    exact = F.conv2d(
        x.double(), weight.double(), shift if shift is None else shift.double(), padding=1
    )
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, exact.float(), atol=1e-3, rtol=0)
