"""The prior and its coder: exact bytes, round trips, damage, and what is saved."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import GOLDEN, PHOTOS
from hypothesis import given
from hypothesis import strategies as st
from vectors import reference

from tokcodec import Codec, TokenFile, checkpoint
from tokcodec.coding.prior import BANDS, GROUPS, HIDDEN, NEIGHBOURS, SIZES, TOTAL, WIDTH, Prior
from tokcodec.errors import CheckpointError, TokenFileError, TrainingError
from tokcodec.train.prior import add_prior, fit


def random_prior(codebook_size, limit=40):
    """A prior of random tables up to ``limit``, with as many tokens a group."""
    generator = np.random.default_rng(codebook_size)

    def table(dtype, *shape):
        most = min(limit, np.iinfo(dtype).max)
        return generator.integers(-most, most, shape, endpoint=True).astype(dtype)

    return Prior(
        group=(np.arange(codebook_size) % GROUPS).astype(np.uint8),
        vectors=table(np.int8, codebook_size + 1, WIDTH),
        layer=table(np.int8, len(NEIGHBOURS) * WIDTH, HIDDEN),
        size_bias=table(np.int16, SIZES, HIDDEN),
        row_bias=table(np.int16, BANDS, HIDDEN),
        column_bias=table(np.int16, BANDS, HIDDEN),
        group_scores=table(np.int8, GROUPS, HIDDEN),
        group_bias=table(np.int16, GROUPS),
        token_scores=table(np.int8, codebook_size, HIDDEN),
        token_bias=table(np.int16, codebook_size),
        powers=np.arange(0xFFFF, 0, -97).astype(np.uint16),
    )


def lists_of(prior):
    return {name.removeprefix("prior."): t.tolist() for name, t in prior.tensors().items()}


def ideal_bits(tables, tokens):
    """The information in the tokens but the last, which is written as a number."""
    bits = 0.0
    tiles, rows, columns = tokens.shape
    for number in range(tiles):
        tile = {place: int(token) for place, token in np.ndenumerate(tokens[number])}
        for place in reference.order(rows, columns):
            if number == tiles - 1 and place == (rows - 1, columns - 1):
                return bits + tile[place].bit_length()
            hidden = reference.hidden_of(tables, tile, *place, rows, columns)
            group = tables["group"][tile[place]]
            for among, symbol in ((None, group), (group, tile[place])):
                ends, symbols = reference.symbol_ends(tables, hidden, among)
                index = symbols.index(symbol)
                bits -= math.log2((ends[index] - [0, *ends][index]) / TOTAL)
    return bits


@given(
    st.integers(GROUPS, 700),
    st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 5)),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_round_trip(size, shape, seed, alike):
    prior = random_prior(size)
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, GROUPS if alike else size, math.prod(shape))
    if alike:  # runs of one token
        tokens = np.repeat(tokens[:: shape[2] + 1], shape[2] + 1)[: len(tokens)]
    tokens = tokens.reshape(shape)
    payload = prior.encode(tokens)
    assert prior.decode(payload, shape).tolist() == tokens.tolist()


EDGES = (1, 2, 3, 8, 15, 17, 32)


def test_every_grid_goes_there_and_back():
    prior = random_prior(200)
    generator = np.random.default_rng(0)
    grids = [
        (rows, columns)
        for rows in range(1, 33)
        for columns in range(1, 33)
        if rows * columns <= 16 or (rows in EDGES and columns in EDGES)
    ]
    for rows, columns in [*grids, (1, 300)]:
        tokens = generator.integers(0, 200, (1, rows, columns))
        payload = prior.encode(tokens)
        assert np.array_equal(prior.decode(payload, tokens.shape), tokens)


def test_a_payload_takes_the_bits_that_the_tables_say():
    prior = random_prior(150)
    tables = lists_of(prior)
    generator = np.random.default_rng(0)
    for shape in ((1, 1, 1), (2, 3, 4), (1, 5, 2)):
        tokens = generator.integers(0, 150, shape)
        payload = prior.encode(tokens)
        assert payload == reference.encode(tables, tokens.ravel().tolist(), *shape)
        # Lost are at most the slots of the first symbol that is pushed, and a byte not full.
        assert 8 * len(payload) < ideal_bits(tables, tokens) + 15 + 8


def test_place_and_size_change_the_weights():
    prior = random_prior(100, limit=10000)
    tokens = np.full((1, 6, 6), 5)
    payloads = set()
    for name in ("size_bias", "row_bias", "column_bias"):
        other = dataclasses.replace(prior, **{name: np.zeros_like(getattr(prior, name))})
        payloads |= {prior.encode(tokens), other.encode(tokens)}
    assert len(payloads) == 4


def test_one_token_is_its_rank():
    prior = random_prior(700)
    payloads = [prior.encode(np.array([[[token]]])) for token in range(700)]
    states = sorted(int.from_bytes(payload) for payload in payloads)
    assert states == list(range(256, 956))
    assert [prior.decode(payload, (1, 1, 1)).item() for payload in payloads] == list(range(700))


def test_nothing_overflows():
    generator = np.random.default_rng(0)
    for prior in (random_prior(200, limit=1 << 15), extreme(random_prior(200))):
        tokens = generator.integers(0, 200, (1, 3, 3))
        payload = prior.encode(tokens)
        assert payload == reference.encode(lists_of(prior), tokens.ravel().tolist(), 1, 3, 3)
        assert prior.decode(payload, tokens.shape).tolist() == tokens.tolist()


def extreme(prior):
    """The lowest number in every table, but the highest bias of the layer."""
    least = {
        name: np.full_like(getattr(prior, name), np.iinfo(getattr(prior, name).dtype).min)
        for name in ("vectors", "layer", "group_scores", "group_bias", "token_scores", "token_bias")
    }
    most = {name: np.full_like(getattr(prior, name), 0x7FFF) for name in ("size_bias", "row_bias")}
    return dataclasses.replace(prior, **least, **most)


@pytest.mark.parametrize(
    "change",
    [
        {"group": np.full(64, 64, np.uint8)},
        {"group": np.zeros(64, np.int64)},
        {"vectors": np.zeros((64, WIDTH), np.int8)},
        {"layer": np.zeros((WIDTH, HIDDEN), np.int8)},
        {"size_bias": np.zeros(HIDDEN, np.int16)},
        {"row_bias": np.zeros((BANDS, HIDDEN), np.int64)},
        {"column_bias": np.zeros((BANDS + 1, HIDDEN), np.int16)},
        {"group_scores": np.zeros((GROUPS, HIDDEN), np.int16)},
        {"group_bias": np.zeros(0, np.int16)},
        {"token_scores": np.zeros((HIDDEN, 64), np.float32)},
        {"token_bias": np.zeros(65, np.int16)},
        {"powers": np.zeros(9, np.uint16)},
        {"powers": np.zeros(0, np.uint16)},
    ],
    ids=str,
)
def test_tables_that_are_no_prior_are_refused(change):
    with pytest.raises(CheckpointError):
        dataclasses.replace(random_prior(64), **change)


def test_groups_that_are_too_large_are_refused():
    prior = random_prior(64)
    count = TOTAL // 2 + 1
    with pytest.raises(CheckpointError):
        dataclasses.replace(
            prior,
            group=np.zeros(count, np.uint8),
            vectors=np.zeros((count + 1, WIDTH), np.int8),
            token_scores=np.zeros((count, HIDDEN), np.int8),
            token_bias=np.zeros(count, np.int16),
        )


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
        prior, facts = fit([part.reshape(-1, 4, 4)], codebook)
        assert facts == {"images": len(part), "tokens": part.size}
        path = folder / f"{name}.safetensors"
        headers.append(checkpoint.write(path, header.config, {**tensors, **prior.tensors()}, {}))
    return headers


def token_file(header, tokens):
    """Of an image as wide as tiles of 16 tokens make it."""
    prior = checkpoint.read_prior(header)
    width = 32 * len(tokens) // 16
    return TokenFile.of(header, tokens.reshape(-1, 4, 4), width, 30, "tile", prior)


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
    for name in ("prior.group", "prior.size_bias"):
        lacking = {key: tensor for key, tensor in tensors.items() if key != name}
        other = checkpoint.write(tmp_path / "lacks.safetensors", header.config, lacking, {})
        with pytest.raises(
            CheckpointError, match=rf"lacks\.safetensors: its prior lacks {name[6:]}"
        ):
            checkpoint.read_prior(other)


def test_a_prior_of_another_codebook_is_refused(with_prior, tmp_path):
    header, tensors = checkpoint.read(with_prior[0].path)
    other = {**tensors, **random_prior(64).tensors()}
    written = checkpoint.write(tmp_path / "other.safetensors", header.config, other, {})
    with pytest.raises(CheckpointError, match=r"other\.safetensors: its prior is of 64 tokens"):
        checkpoint.read_prior(written)


def test_a_coded_file(with_prior):
    tokens = np.array([7, 7, 7, 7] * 4)
    file = token_file(with_prior[0], tokens)
    data = file.to_bytes()
    packed = file.as_packed().to_bytes()
    assert file.entropy_coded
    assert file.payload_bits == 8 * len(file.payload)
    assert len(data) == file.file_bytes < len(packed)
    assert len(packed) - 12 == len(data) - len(file.payload)
    # Alike are all but the first byte, the payload and the checksum.
    assert data[1:8] == packed[1:8]
    assert data[0] == packed[0] | 1
    prior = checkpoint.read_prior(with_prior[0])
    assert file.payload == prior.encode(tokens.reshape(-1, 4, 4))
    # It is read without its checkpoint, which only its tokens need.
    again = TokenFile.from_bytes(data)
    assert again == file
    assert (again.shape, again.width, again.fit) == ((1, 4, 4), 32, "tile")
    assert again.tokens_with(with_prior[0]).tolist() == file.tokens.tolist() == tokens.tolist()
    # Tokens that it would make longer stay packed.
    unlikely = np.random.default_rng(5).integers(0, 60, 16)
    file = token_file(with_prior[0], unlikely)
    assert not file.entropy_coded
    assert file == file.as_packed()


def test_refusals(with_prior):
    one, other = with_prior
    generator = np.random.default_rng(0)
    tokens = np.where(generator.random(96) < 0.7, 7, generator.integers(0, 60, 96))
    file = TokenFile.from_bytes(token_file(one, tokens).to_bytes())
    assert file.entropy_coded
    plain = checkpoint.read_header(GOLDEN / "patch.safetensors")
    for header in (None, plain, other):
        file = TokenFile.from_bytes(file.to_bytes())  # which has not read its tokens yet
        with pytest.raises(TokenFileError) as caught:
            file.tokens_with(header)
        assert len(str(caught.value).splitlines()) == 1
    # Fewer tokens or other bits than it was written with, and the checksum set again.
    for change in ({"columns": 3}, {"rows": 3}, {"bits": 7}, {"tiles": (1, 5)}):
        lying = dataclasses.replace(file, **change).to_bytes()
        with pytest.raises(TokenFileError):
            TokenFile.from_bytes(lying).tokens_with(one)
    # A few bytes cannot claim tokens for hours.
    with pytest.raises(TokenFileError):
        TokenFile.from_bytes(dataclasses.replace(file, rows=2000, columns=2000).to_bytes())
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
    assert again.provenance["prior"] == {"images": 300, "tokens": 4800}
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


def test_the_work_of_a_fit_is_in_proportion_to_the_tokens():
    """A few dozen images take a few dozen steps."""
    generator = np.random.default_rng(0)
    vectors = torch.randn(70, 5, generator=torch.Generator().manual_seed(0))
    taken = []
    for images in (40, 160):
        steps = []
        tokens = generator.integers(0, 70, (images, 8, 8))
        fit([tokens], vectors, lambda done, total: steps.append(total))  # noqa: ARG005, B023
        taken.append(len(steps))
    assert taken == [20, 80]  # 4 epochs of 512 tokens a step


def test_a_fit_takes_grids_of_any_mixture():
    generator = np.random.default_rng(0)
    parts = [generator.integers(0, 70, (5, *grid)) for grid in ((4, 4), (1, 9), (20, 3))]
    vectors = torch.randn(70, 5, generator=torch.Generator().manual_seed(0))
    steps = []
    prior, facts = fit(parts, vectors, lambda done, total: steps.append((done, total)))
    assert facts == {"images": 15, "tokens": 5 * (16 + 9 + 60)}
    assert steps == [(done, steps[-1][1]) for done in range(1, len(steps) + 1)]
    assert steps[-1][0] == steps[-1][1]
    # Sizes that no token was of are like the nearest.
    assert np.array_equal(prior.size_bias[SIZES - 1], prior.size_bias[11])
    for tokens in parts:
        assert np.array_equal(prior.decode(prior.encode(tokens), tokens.shape), tokens)
