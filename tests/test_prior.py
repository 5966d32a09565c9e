"""The prior and its coder: exact bytes, round trips, damage, and what is saved."""

import dataclasses
import math
import zlib

import numpy as np
import pytest
import torch
from conftest import GOLDEN, PHOTOS
from golden import reference_prior
from hypothesis import given
from hypothesis import strategies as st

from tokcodec import Codec, TokenFile, checkpoint
from tokcodec.coding.prior import (
    GROUPS,
    HIDDEN,
    NEIGHBOURS,
    TOTAL,
    WIDTH,
    CountedPrior,
    NeuralPrior,
    neighbours,
)
from tokcodec.errors import CheckpointError, TokenFileError, TrainingError
from tokcodec.train.prior import add_prior, fit


def flat(codebook_size):
    """Token c is of group c % 64; all groups are as likely, and all tokens of a group nearly."""
    group = (np.arange(codebook_size) % GROUPS).astype(np.uint8)
    sizes = np.bincount(group, minlength=GROUPS)
    token_weights = (TOTAL // sizes[group]).astype(np.uint16)
    token_weights[:GROUPS] += (TOTAL % sizes[group[:GROUPS]]).astype(np.uint16)
    shape = (GROUPS + 1, GROUPS + 1, GROUPS)
    return CountedPrior(group, np.full(shape, TOTAL // GROUPS, np.uint16), token_weights)


def skewed(codebook_size):
    """Like ``flat``, but the group of the left token, and 0 at the border, has half of all
    slots."""
    prior = flat(codebook_size)
    weights = np.full_like(prior.group_weights, TOTAL // 2 // (GROUPS - 1))
    for left in range(GROUPS + 1):
        favourite = left % GROUPS
        weights[left, :, favourite] += TOTAL - weights[left, 0].sum()
    return dataclasses.replace(prior, group_weights=weights)


def neural(codebook_size, limit=40):
    """A neural prior of random tables, with as many tokens a group; beyond ``limit`` is nothing."""
    generator = np.random.default_rng(codebook_size)

    def table(dtype, *shape):
        most = min(limit, np.iinfo(dtype).max)
        return generator.integers(-most, most, shape, endpoint=True).astype(dtype)

    return NeuralPrior(
        group=(np.arange(codebook_size) % GROUPS).astype(np.uint8),
        vectors=table(np.int8, codebook_size + 1, WIDTH),
        layer=table(np.int8, len(NEIGHBOURS) * WIDTH, HIDDEN),
        layer_bias=table(np.int16, HIDDEN),
        group_scores=table(np.int8, GROUPS, HIDDEN),
        group_bias=table(np.int16, GROUPS),
        token_scores=table(np.int8, codebook_size, HIDDEN),
        token_bias=table(np.int16, codebook_size),
        powers=np.arange(0xFFFF, 0, -97).astype(np.uint16),
    )


def ideal_bits(prior, tokens):
    """The information in the tokens but the last, which is written as a number."""
    bits = []
    around = neighbours(tokens, len(prior.group))
    for token, near in zip(tokens.flat, around, strict=True):
        group = prior.group[token]
        rank = (prior.group[:token] == group).sum()
        context = prior.contexts(near)
        for ends, symbol in (
            (prior.group_ends(context), group),
            (prior.token_ends(group, context), rank),
        ):
            weight = int(ends[symbol]) - (int(ends[symbol - 1]) if symbol else 0)
            bits.append(-math.log2(weight / TOTAL))
    return sum(bits[:-2]) + int(tokens.flat[-1]).bit_length()


@given(
    st.sampled_from([flat, skewed, neural]),
    st.integers(GROUPS, 700),
    st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 5)),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_round_trip_in_the_bits_that_the_tables_say(make, size, shape, seed, alike):
    prior = make(size)
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, GROUPS if alike else size, math.prod(shape))
    if alike:  # runs of one token
        tokens = np.repeat(tokens[:: shape[2] + 1], shape[2] + 1)[: len(tokens)]
    tokens = tokens.reshape(shape)
    payload = prior.encode(tokens)
    assert prior.decode(payload, shape).tolist() == tokens.tolist()
    # Lost are at most the slots of the first symbol that is pushed, and a byte that is not full.
    assert 8 * len(payload) < ideal_bits(prior, tokens) + 15 + 8


def test_bytes_by_hand():
    # One square of one token: the token itself.
    assert flat(700).encode(np.array([[[300]]])) == bytes.fromhex("2c01")
    # The last token is the state; the first is pushed on it: then its group, 5, of 512 slots each.
    prior = flat(128)
    state = 77
    for weight, low in ((TOTAL // 2, TOTAL // 2), (512, 5 * 512)):  # token 69 is second in group 5
        state = state // weight * TOTAL + low + state % weight
    payload = prior.encode(np.array([[[69]], [[77]]]))
    assert payload == state.to_bytes(4, "little").rstrip(b"\0")
    assert prior.decode(payload, (2, 1, 1)).ravel().tolist() == [69, 77]


# A payload of this prior, kept for good: the coder and its tables must read the same for ever.
KEPT_TOKENS = (np.arange(32) ** 3 % 60).reshape(2, 4, 4)
KEPT = "83db7d0ee50cf96bf1a550b9bddf1c8ae643840745ad71ba807502"


def test_kept_payload():
    assert skewed(64).encode(KEPT_TOKENS).hex() == KEPT
    assert skewed(64).decode(bytes.fromhex(KEPT), (2, 4, 4)).tolist() == KEPT_TOKENS.tolist()


def test_a_neural_prior_is_what_integers_say():
    # Its payload by other code, in Python's integers.
    golden = dict(np.load(GOLDEN / "prior.npz"))
    tokens, payload = golden.pop("tokens"), golden.pop("payload").tobytes()
    prior = NeuralPrior(**golden)
    assert prior.encode(tokens) == payload
    assert prior.decode(payload, tokens.shape).tolist() == tokens.tolist()
    # Nothing overflows where all is as large as can be.
    prior = neural(200, limit=1 << 15)
    tokens = np.random.default_rng(0).integers(0, 200, (1, 3, 3))
    tables = {name.removeprefix("prior."): table for name, table in prior.tensors().items()}
    assert prior.encode(tokens) == reference_prior.encode(tables, tokens)
    least = {
        name: np.full_like(table, np.iinfo(table.dtype).min)
        for name, table in tables.items()
        if name not in ("group", "powers")
    }
    least["layer_bias"] = -1 - least["layer_bias"]
    near = np.full(len(NEIGHBOURS), 200)
    prior = dataclasses.replace(prior, **least)
    ends = prior.token_ends(3, prior.contexts(near)).tolist()
    assert [0, *ends] == reference_prior.bounds({**tables, **least}, near, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": np.full(64, 64, np.uint8)}, "add up to"),
        ({"group": np.zeros(64, np.uint8)}, "add up to"),
        ({"group": np.zeros(64, np.int64)}, "another type or shape"),
        ({"group": np.uint8(0), "token_weights": np.uint16(TOTAL)}, "another type or shape"),
        ({"token_weights": np.zeros(64, np.uint16)}, "add up to"),
        ({"token_weights": np.full(63, TOTAL, np.uint16)}, "another type or shape"),
        ({"group_weights": np.full((65, 65, 64), 511, np.uint16)}, "add up to"),
        ({"group_weights": np.full((65, 64), 512, np.uint16)}, "another type or shape"),
    ],
)
def test_tables_that_are_none(change, message):
    with pytest.raises(CheckpointError, match=message):
        dataclasses.replace(flat(64), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": np.full(64, 64, np.uint8)}, "too many or too large"),
        ({"vectors": np.zeros((64, WIDTH), np.int8)}, "another type or shape"),
        ({"layer": np.zeros((WIDTH, HIDDEN), np.int8)}, "another type or shape"),
        ({"layer_bias": np.zeros(HIDDEN, np.int64)}, "another type or shape"),
        ({"group_scores": np.zeros((GROUPS, HIDDEN), np.int16)}, "another type or shape"),
        ({"group_bias": np.zeros(0, np.int16)}, "another type or shape"),
        ({"token_scores": np.zeros((HIDDEN, 64), np.float32)}, "another type or shape"),
        ({"token_bias": np.zeros(65, np.int16)}, "another type or shape"),
        ({"powers": np.zeros(9, np.uint16)}, "weights of 0"),
        ({"powers": np.zeros(0, np.uint16)}, "weights of 0"),
    ],
)
def test_a_network_that_is_none(change, message):
    with pytest.raises(CheckpointError, match=message):
        dataclasses.replace(neural(64), **change)


@pytest.fixture(scope="module")
def with_prior(tmp_path_factory):
    """The tiny checkpoint, 16 tokens of 60, 7 the likeliest, with a prior; as two headers of
    different priors."""
    header, tensors = checkpoint.read(GOLDEN / "patch.safetensors")
    folder = tmp_path_factory.mktemp("prior")
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 60, (50, 16))
    tokens[generator.random(tokens.shape) < 0.3] = 7
    headers = []
    for name, part in (("one", tokens), ("other", tokens[::2] // 2)):
        codebook = torch.from_numpy(tensors["quantizer.codebook"]).float()
        prior, count = fit([part.reshape(-1, 4, 4)], codebook)
        assert count == len(part)
        path = folder / f"{name}.safetensors"
        headers.append(checkpoint.write(path, header.config, {**tensors, **prior.tensors()}, {}))
    return headers


def token_file(header, tokens):
    """Of an image as wide as tiles of 16 tokens make it."""
    prior = checkpoint.read_prior(header)
    width = 32 * len(tokens) // 16
    return TokenFile.of(header, tokens, width, 30, "tile", prior)


def test_a_prior_changes_no_token(with_prior):
    plain = checkpoint.read_header(GOLDEN / "patch.safetensors")
    one, other = with_prior
    assert plain.model_id == one.model_id == other.model_id
    assert len({plain.checkpoint_id, one.checkpoint_id, other.checkpoint_id}) == 3
    assert plain.prior_id is None
    assert one.prior_id != other.prior_id
    assert checkpoint.read(one.path)[0] == one == checkpoint.read_header(one.path)
    with pytest.raises(CheckpointError, match=r"patch\.safetensors: has no prior .*; make one"):
        checkpoint.read_prior(plain)
    codec, entropy_coded = (Codec.load(header, device="cpu") for header in (plain, one))
    packed = codec.compress(PHOTOS[0])
    file = entropy_coded.compress(PHOTOS[0])
    assert file.tokens.tolist() == packed.tokens.tolist()
    assert entropy_coded.compress(PHOTOS[0], packed=True) == packed
    assert np.array_equal(codec.decompress(packed), entropy_coded.decompress(file))


def test_a_damaged_prior_is_refused(with_prior, tmp_path):
    header, tensors = checkpoint.read(with_prior[0].path)
    data = bytearray(with_prior[0].path.read_bytes())
    place = data.index(tensors["prior.token_scores"].tobytes())
    data[place] ^= 1
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(data)
    damaged = checkpoint.read_header(path)
    for use in (lambda: checkpoint.read(path), lambda: checkpoint.read_prior(damaged)):
        with pytest.raises(CheckpointError, match=r"damaged\.safetensors: damaged or altered"):
            use()
    # Whole ids around tables that are none.
    for name in ("prior.group", "prior.layer_bias"):
        lacking = {key: tensor for key, tensor in tensors.items() if key != name}
        other = checkpoint.write(tmp_path / "lacks.safetensors", header.config, lacking, {})
        with pytest.raises(
            CheckpointError, match=rf"lacks\.safetensors: its prior lacks {name[6:]}"
        ):
            checkpoint.read_prior(other)


def test_a_prior_of_another_codebook_is_refused(with_prior, tmp_path):
    header, tensors = checkpoint.read(with_prior[0].path)
    other = {**tensors, **flat(64).tensors()}
    written = checkpoint.write(tmp_path / "other.safetensors", header.config, other, {})
    with pytest.raises(CheckpointError, match=r"other\.safetensors: its prior is of 64 tokens"):
        checkpoint.read_prior(written)


def test_a_coded_file(with_prior):
    tokens = np.array([7, 7, 7, 7] * 4)
    file = token_file(with_prior[0], tokens)
    data = file.to_bytes()
    packed = file.as_packed().to_bytes()
    assert file.entropy_coded
    # All but version and flag, the payload and the checksum.
    assert len(data) == file.file_bytes == 17 + len(file.payload) < len(packed) == 17 + 12
    assert file.payload_bits == 8 * len(file.payload)
    assert (data[:2], data[3:13]) == (packed[:2], packed[3:13])
    assert (packed[2], data[2]) == (0x13, 0x2B)
    assert data[-4:] == zlib.crc32(data[:-4]).to_bytes(4, "little")
    prior = checkpoint.read_prior(with_prior[0])
    assert data[13:-4] == file.payload == prior.encode(tokens.reshape(-1, 4, 4))
    # It is read without its checkpoint, which only its tokens ask for.
    again = TokenFile.from_bytes(data)
    assert again == file
    assert (again.num_tokens, again.width, again.fit) == (16, 32, "tile")
    assert again.tokens_with(with_prior[0]).tolist() == file.tokens.tolist() == tokens.tolist()
    # Tokens that it would make longer stay packed.
    unlikely = np.random.default_rng(5).integers(0, 60, 16)
    file = token_file(with_prior[0], unlikely)
    assert not file.entropy_coded
    assert file == file.as_packed()


# Entropy-coded files kept for good, of both versions, and the priors that they ask for.
KEPT_FILES = {
    "v1-32-tile-coded.tok": (skewed, [7] * 29 + [0, 59, 7]),
    "v2-32-tile-coded.tok": (neural, [20] * 32),
}


@pytest.fixture(params=KEPT_FILES)
def kept_file(request, tmp_path):
    make, tokens = KEPT_FILES[request.param]
    header, tensors = checkpoint.read(GOLDEN / "patch.safetensors")
    tensors |= make(60).tensors()
    written = checkpoint.write(tmp_path / "a.safetensors", header.config, tensors, {})
    return (GOLDEN / request.param).read_bytes(), tokens, written


def test_kept_files(kept_file):
    data, tokens, header = kept_file
    file = TokenFile.from_bytes(data)
    assert (file.entropy_coded, file.fit, file.width, file.height) == (True, "tile", 64, 30)
    assert file.tokens_with(header).tolist() == tokens
    assert file.to_bytes() == data
    # What is written now is of version 2.
    again = TokenFile.of(header, np.array(tokens), 64, 30, "tile", checkpoint.read_prior(header))
    assert (again.payload, again.version) == (file.payload, 2)


def test_every_flipped_bit_and_every_truncation_of_a_coded_file_is_caught(kept_file):
    data, _, header = kept_file

    def refused(damaged):
        with pytest.raises(TokenFileError):
            TokenFile.from_bytes(damaged).tokens_with(header)

    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        refused(bytes(damaged))
        if data[2] >> 4 == 2:  # which needs no prior for that
            with pytest.raises(TokenFileError):
                TokenFile.from_bytes(bytes(damaged))
    for length in range(len(data)):
        refused(data[:length])
    refused(data + b"\0")


def test_refusals_say_why(with_prior):
    one, other = with_prior
    data = token_file(one, np.array([7, 7, 7, 7] * 4)).to_bytes()
    file = TokenFile.from_bytes(data)
    with pytest.raises(TokenFileError, match=r"model 75d6f250, which is neither .*--weights"):
        file.tokens  # noqa: B018
    plain = checkpoint.read_header(GOLDEN / "patch.safetensors")
    with pytest.raises(TokenFileError, match=r"and \S*patch\.safetensors has none; name, by"):
        file.tokens_with(plain)
    with pytest.raises(TokenFileError, match="damaged, or entropy-coded with another prior"):
        file.tokens_with(other)
    # A few bytes cannot claim tokens for hours.
    claim = data[:12] + b"\xff\xff\xff\x7f" + data[13:]
    with pytest.raises(TokenFileError, match="268435455 tokens of 6 bits, entropy-coded in"):
        TokenFile.from_bytes(claim)
    # Nor can it claim other tokens than its width, height and fit ask for, though it has the bytes.
    for change, message in [
        ((12, b"\x11"), "17 tokens of 6 bits, not 16 of 6"),
        ((11, b"\x07"), "16 tokens of 7 bits, not 16 of 6"),
        ((7, b"\x21"), "16 tokens of 6 bits, not 32 of 6"),
    ]:
        place, value = change
        lying = data[:place] + value + data[place + 1 : -4]
        lying = TokenFile.from_bytes(lying + zlib.crc32(lying).to_bytes(4, "little"))
        with pytest.raises(TokenFileError, match=f"damaged: {message}"):
            lying.tokens_with(one)
    with pytest.raises(ValueError, match="cannot reshape"):
        token_file(one, np.arange(17)).to_bytes()
    for tokens in (np.array([60] * 16), np.array([-1] * 16), np.array([], int)):
        with pytest.raises(ValueError, match=r"tokens must be from 0 to 59"):
            checkpoint.read_prior(one).encode(tokens.reshape(-1, 4, 4))


def test_a_fitted_prior_saves_what_it_says(tmp_path):
    header, _ = checkpoint.read(GOLDEN / "patch.safetensors")
    generator = np.random.default_rng(1)

    def images(count):
        # Rows of one token each, from a few that are common.
        rows = generator.choice(60, (count, 4, 1), p=np.array([9.0, 5, 3] + [1] * 57) / 74)
        return np.broadcast_to(rows, (count, 4, 4))

    parts = [images(300), images(200)]
    unseen = images(100)
    path = tmp_path / "a.safetensors"
    written = add_prior(header, iter(parts), [unseen], path, {"command": "this"})
    facts = written.provenance["prior"]
    assert (facts["command"], facts["images"], facts["held_out_images"]) == ("this", 500, 100)
    sizes = [len(token_file(written, tokens.reshape(-1)).payload) for tokens in unseen]
    assert facts["held_out_payload_bytes"] == pytest.approx(np.mean(sizes), abs=0.005)
    assert np.mean(sizes) < 0.6 * 12
    assert {k: v for k, v in written.provenance.items() if k != "prior"} == header.provenance
    # A second one replaces it.
    again = add_prior(written, [parts[0]], [], tmp_path / "b.safetensors", {})
    assert again.provenance["prior"] == {"images": 300}
    assert again.model_id == header.model_id

    with pytest.raises(TrainingError, match="no tokens"):
        add_prior(header, [], [], path, {})
    _, tensors = checkpoint.read(header.path)
    codebook = tensors.pop("quantizer.codebook")
    lacking = checkpoint.write(tmp_path / "lacking.safetensors", header.config, tensors, {})
    tensors["quantizer.codebook"] = np.where(codebook > 0, codebook, np.float32("nan"))
    holding = checkpoint.write(tmp_path / "nan.safetensors", header.config, tensors, {})
    for damaged, message in (
        (lacking, r"lacking\.safetensors: tensor quantizer\.codebook: "),
        (holding, r"nan\.safetensors: tensor quantizer\.codebook holds NaN"),
    ):
        with pytest.raises(CheckpointError, match=message):
            add_prior(damaged, parts, [], path, {})
    latent = checkpoint.read_header(GOLDEN / "latent.safetensors")
    with pytest.raises(TrainingError, match="latent: only tokens in rows and columns"):
        add_prior(latent, parts, [], path, {})
