import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokcodec.coding.bitpack import MAX_BITS, pack, packed_size, unpack
from tokcodec.errors import TokenFileError


@given(
    st.integers(1, MAX_BITS).flatmap(
        lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), max_size=300))
    )
)
def test_round_trip(case):
    bits, tokens = case
    data = pack(np.array(tokens, np.int64), bits)
    assert len(data) == packed_size(len(tokens), bits) == -(-len(tokens) * bits // 8)
    assert unpack(data, len(tokens), bits).tolist() == tokens
    # The definition itself: the tokens are the digits of one number.
    number = sum(code << bits * place for place, code in enumerate(tokens))
    assert int.from_bytes(data, "little") == number


def test_memory_does_not_follow_the_number_of_bits():
    tokens = np.arange(1 << 20) % 12_345
    data = pack(tokens, 14)
    tracemalloc.start()
    try:
        assert np.array_equal(unpack(data, 1 << 20, 14), tokens)
        assert pack(tokens, 14) == data
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_bytes_by_hand():
    # 13 bits each: 1 -> 1000000000000, 8191 -> 1111111111111, 2 -> 0100000000000
    assert pack(np.array([1, 8191, 2]), 13) == bytes([0x01, 0xE0, 0xFF, 0x0B, 0x00])
    assert pack(np.array([1, 0, 1, 1]), 1) == b"\x0d"
    assert pack(np.array([], np.int64), 13) == b""


@pytest.mark.parametrize(("tokens", "bits"), [([4], 2), ([-1], 2), ([0], 0), ([0], 33)])
def test_out_of_range(tokens, bits):
    with pytest.raises(ValueError, match="must be from"):
        pack(np.array(tokens), bits)


def test_padding_must_be_zero():
    with pytest.raises(TokenFileError, match="padding"):
        unpack(b"\x0d", 3, 1)
    with pytest.raises(ValueError, match="are not 2 bytes"):
        unpack(b"\x0d\x00", 3, 1)
