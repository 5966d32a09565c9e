"""Residual quantizers and the families that have them: tokens scale by scale, or by depth."""

import itertools

import numpy as np
import published
import pytest
import torch
import torch.nn.functional as F
from conftest import PHOTOS
from PIL import Image
from test_families import IMAGES, SIZES, infinity, network

import tokcodec
from tokcodec import Codec
from tokcodec.checkpoint import write_converted
from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.convolutional import ConvolutionalDecoderConfig, ConvolutionalEncoderConfig
from tokcodec.config.parts import ModelShape
from tokcodec.config.quantizers import (
    BinaryConfig,
    CodebookConfig,
    FiniteScalarConfig,
    ResidualConfig,
)
from tokcodec.errors import CheckpointError, ConfigError, ImageError
from tokcodec.evaluate.points import points_of
from tokcodec.families import convert, known, locate, recognise
from tokcodec.families.reading import Tensors
from tokcodec.model.residual import Residual
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train.export import export

CODEBOOK = CodebookConfig(codebook_size=50, embedding_dim=6)
SIGNS = BinaryConfig(embedding_dim=6, unit_length=True, first_bit="highest")
LEVELS = FiniteScalarConfig(levels=(5, 5, 5, 5, 3, 3))
SCALES = (1, 2, 3, 5)


def quantizer(**fields):
    config = ResidualConfig(**fields)
    made = Residual(config, ModelShape(0, config.scales[-1:] * 2, config.embedding_dim))
    generator = torch.Generator().manual_seed(1)
    for tensor in made.state_dict().values():
        tensor.normal_(generator=generator)
    return made.requires_grad_(False)


def by_hand(made, z):
    """Tokens and z_q of each scale, by plain steps."""
    rest, parts, sums = z.permute(0, 3, 1, 2), [], [0]
    for number, side in enumerate(made.scales):
        tokens = made.stage.tokens(F.adaptive_avg_pool2d(rest, side).permute(0, 2, 3, 1))
        added = made.stage.lookup(tokens).permute(0, 3, 1, 2)
        added = F.interpolate(added, z.shape[1:3], mode=made.enlarging, align_corners=False)
        if made.filter_of_scale:
            added = made.filters[made.filter_of_scale[number]](added)
        rest = rest - added
        parts.append(tokens.flatten(1))
        sums.append(sums[-1] + added)
    return parts, [z_q.permute(0, 2, 3, 1) for z_q in sums[1:]]


@pytest.mark.parametrize("filters", [(), (0, 0, 1, 1)])
@pytest.mark.parametrize(
    ("stage", "enlarging"), [(CODEBOOK, "bicubic"), (SIGNS, "bilinear"), (LEVELS, "bicubic")]
)
def test_scales(stage, enlarging, filters):
    made = quantizer(stage=stage, scales=SCALES, enlarging=enlarging, filters=filters)
    z = torch.randn(3, 5, 5, 6, generator=torch.Generator().manual_seed(2))
    parts, sums = by_hand(made, z)
    tokens = made.tokens(z)
    assert tokens.shape == (3, 39)
    assert torch.equal(tokens, torch.cat(parts, dim=1))
    with torch.autocast("cpu", torch.bfloat16):  # all of it stays in float32
        assert torch.equal(made.tokens(z), tokens)
        assert made.lookup(tokens).dtype == torch.float32
    counts = list(itertools.accumulate(part.shape[1] for part in parts))
    for count, z_q in zip(counts, sums, strict=True):
        torch.testing.assert_close(made.lookup(tokens[:, :count]), z_q)
    margins = made.margins(z)
    assert margins.shape == tokens.shape
    # A token that may change may change all behind it.
    for count in counts[:-1]:
        assert (margins[:, count:] <= margins[:, :count].amin(dim=1, keepdim=True)).all()


def test_by_depth_every_step_is_nearer():
    made = quantizer(stage=CODEBOOK, scales=(4,) * 6)
    made.stage.codebook *= torch.linspace(0.02, 1, 50)[:, None]
    z = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(3))
    tokens = made.tokens(z)
    errors = [float((made.lookup(tokens[:, : 16 * n]) - z).square().mean()) for n in range(1, 7)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 2
    with pytest.raises(ValueError, match="NaN or infinite"):
        made.tokens(z / 0)


CONVOLUTIONAL = {"channels": 32, "multipliers": (1, 1, 1), "blocks": 1, "middle_blocks": 0}


def multi_scale(side=16, scales=(1, 2, 4), **fields):
    convolutional = CONVOLUTIONAL | {"multipliers": (1,) * (side // scales[-1]).bit_length()}
    return ModelConfig(
        encoder=ConvolutionalEncoderConfig(**convolutional),
        quantizer=ResidualConfig(stage=CODEBOOK, scales=scales),
        decoder=ConvolutionalDecoderConfig(**convolutional),
        preprocessing=PreprocessingConfig(image_size=side, resize="lanczos", crop_scale=1.125),
        **fields,
    )


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Writes a checkpoint with random weights."""

    def write(config, name):
        torch.manual_seed(0)
        model = Tokenizer(config)
        model.quantizer.stage.codebook.normal_()
        path = tmp_path_factory.mktemp("multi-scale") / f"{name}.safetensors"
        export(model, path, {})
        return path

    return write


@pytest.fixture(scope="module")
def small(write):
    return write(multi_scale(default_fit="crop"), "small")


def test_the_config():
    config = multi_scale()
    assert (config.num_tokens, config.multiple, config.has_grid) == (21, 0, False)
    assert list(config.token_counts) == [1, 5, 21]
    assert [config.kept_tokens(most) for most in (None, 1, 4, 5, 20, 99)] == [21, 1, 1, 5, 5, 21]
    assert ModelConfig.from_json(config.to_json()) == config
    assert '"stage":{"codebook_size":50,"embedding_dim":6,"kind":"codebook"}' in config.to_json()
    for count in (1, 5, 21):
        assert config.place_grid("crop", (30, 20), 1, count)[1] == (count,)
    for count in (2, 20, 22):
        with pytest.raises(ImageError):
            config.place_grid("crop", (30, 20), 1, count)
    for wrong in (
        lambda: multi_scale(scales=(1, 2, 8)).replace(encoder=config.encoder),
        lambda: multi_scale(default_fit="native"),
        lambda: ResidualConfig(stage=CODEBOOK, scales=(1, 2, 4), filters=(0, 1)),
        lambda: ResidualConfig(stage=CODEBOOK, scales=(128, 128)),
        lambda: ResidualConfig(stage=ResidualConfig(stage=SIGNS, scales=(4,)), scales=(4,)),
    ):
        with pytest.raises(ConfigError):
            wrong()


def test_files_of_the_first_scales(run, small, tmp_path):
    Image.open(PHOTOS[0]).crop((0, 0, 60, 40)).save(tmp_path / "a.png")
    weights = ("--weights", small)
    codec = Codec.load(str(small), "cpu")
    whole = codec.compress(tmp_path / "a.png")
    assert whole.num_tokens == 21
    run("encode", "a.png", *weights, "--tokens", "5", "-o", "5.tok", cwd=tmp_path)
    assert (tmp_path / "5.tok").read_bytes() == codec.compress(
        tmp_path / "a.png", tokens=5
    ).to_bytes()
    # Fewer of a whole file, or all of a short one: the same image.
    short = codec.compress(tmp_path / "a.png", tokens=5)
    assert np.array_equal(short.tokens, whole.tokens[:5])
    assert np.array_equal(codec.decompress(short), codec.decompress(whole, tokens=5))
    assert not np.array_equal(codec.decompress(short), codec.decompress(whole))
    pixels = codec.decode(whole.tokens[None, :5])
    assert pixels.shape == (1, 16, 16, 3)
    # The square shows 16 of 18 pixels of the resized shorter edge.
    assert codec.decompress(whole).size == (36, 36)
    # A limit is rounded down to a whole scale; another number is refused.
    for limit, tokens in ((short.file_bytes, 5), (whole.file_bytes - 1, 5), (99, 21)):
        assert codec.compress(tmp_path / "a.png", max_bytes=limit).num_tokens == tokens
    tiles = codec.compress(tmp_path / "a.png", fit="tile", max_bytes=short.file_bytes + 45)
    assert (tiles.num_tokens, tiles.columns) == (60, 5)
    with pytest.raises(ImageError, match="smallest file has"):
        codec.compress(tmp_path / "a.png", max_bytes=3)
    said = run("encode", "a.png", *weights, "--tokens", "6", "-o", "6.tok", cwd=tmp_path, status=1)
    assert said.stderr == b"tokcodec: small: decodes its first 1, 5 or all 21 tokens, not 6\n"
    with pytest.raises(ValueError, match="expected tokens"):
        codec.decode(whole.tokens[None, :6])


def test_datasets_of_the_first_scales(run, small, tmp_path):
    pytest.importorskip("pyarrow")
    photos = [str(photo) for photo in PHOTOS]
    options = ("--weights", small, "--tokens", "5", "-o", tmp_path / "t.parquet")
    run("tokenize", *photos, *options)
    tokens = tokcodec.load_tokens(tmp_path / "t.parquet")
    codec = Codec.load(str(small), "cpu")
    expected = [codec.compress(photo, tokens=5).tokens for photo in photos]
    assert np.array_equal(tokens, expected)
    run("export", tmp_path / "t.parquet", "-o", tmp_path / "t.npy")
    assert np.array_equal(np.load(tmp_path / "t.npy"), expected)
    run("decode", tmp_path / "t.parquet", "--weights", small, "-o", tmp_path / "shown")
    assert len(list((tmp_path / "shown").rglob("*.png"))) == 3
    options = ("--weights", small, "--tokens", "7", "-o", tmp_path / "u.parquet")
    assert b"1, 5 or all 21" in run("tokenize", *photos, *options, status=1).stderr


def test_evaluation_page_and_verification(run, write, tmp_path):
    large = write(multi_scale(176, (1, 4, 11), default_fit="crop"), "large")
    codec = Codec.load(str(large), "cpu")
    assert [point.tokens for point in points_of([codec], None, ())] == [17, 138]
    assert [point.tokens for point in points_of([codec], (4, 20, 999), ())] == [1, 17]
    photo = str(PHOTOS[0])
    report = tokcodec.evaluate([photo], weights=(str(large),), baselines=(), device="cpu")
    assert [row.tokens for row in report.rows] == [17, 138]
    run("encode", photo, "--weights", large, "--tokens", "17", "-o", tmp_path / "photo.tok")
    (tmp_path / "astronaut.png.tok").write_bytes((tmp_path / "photo.tok").read_bytes())
    (tmp_path / "photo.tok").unlink()
    options = ("--weights", large, "--originals", photo, "-o", tmp_path / "page")
    run("page", tmp_path / "astronaut.png.tok", *options)
    assert (tmp_path / "page" / "index.html").stat().st_size > 1000
    said = run("verify", photo, "--weights", large).stdout
    assert said.startswith(b"1 image")


def depth_first(array):
    """[3, N] of four depths, all of a place together -> those of a depth together."""
    return array.reshape(3, -1, 4).swapaxes(1, 2).reshape(3, -1)


# Sides of the scales, tokens of the part that is also decoded.
GOLDEN = {
    "var_256": ("VAR", (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 91),
    "rqvae_8x8x4": ("RQ-VAE", (8,) * 4, 128),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_tokens(name, tmp_path):
    title, scales, some = GOLDEN[name]
    source = locate(str(published.write_golden(name, tmp_path)))
    with source.open() as stored:
        assert recognise(stored, source.read_config()).title == title
    config, tensors = convert(source)
    assert (config.quantizer.scales, config.default_fit) == (scales, "crop")
    assert some in config.token_counts
    model = network(config, tensors)
    golden = {path.stem: np.load(path) for path in (published.FOLDER / name).glob("*.npy")}
    if title == "RQ-VAE":
        golden |= {key: depth_first(golden[key]) for key in ("tokens", "margins")}
    side = scales[-1]
    theirs = golden["z"].reshape(3, -1, side, side).transpose(0, 2, 3, 1)
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        z = model.z(pixels)
        np.testing.assert_allclose(z.numpy(), theirs, rtol=0, atol=1e-3)
        decided = golden["margins"] > 1e-3
        assert decided.mean() > 0.95
        for given in (z, torch.from_numpy(theirs)):
            tokens = model.quantizer.tokens(given).numpy()
            assert np.array_equal(tokens[decided], golden["tokens"][decided])
        margins = model.quantizer.margins(z).numpy()
        np.testing.assert_allclose(
            margins[:, : scales[0] ** 2], golden["margins"][:, : scales[0] ** 2], atol=2e-3
        )
        assert (margins <= golden["margins"] + 2e-3).all()
        for file, count in (("reconstruction", None), (f"reconstruction_{some}", some)):
            first = torch.from_numpy(golden["tokens"][:1, :count]).long()
            decoded = model.decoder(model.quantizer.lookup(first)).permute(0, 2, 3, 1)
            decoded = 127.5 * decoded.numpy()[:, ::4, ::4]
            np.testing.assert_allclose(decoded, 127.5 * golden[file], rtol=0, atol=0.1)


def test_an_image_in_137_bytes(tmp_path):
    source = locate(str(published.write_golden("var_256", tmp_path)))
    header = write_converted(source, tmp_path / "var.safetensors")
    assert header.provenance["converted_from"] == "vae_ch160v4096z32.pth"
    codec = Codec.load(header, "cpu")
    file = codec.compress(PHOTOS[0], tokens=91)
    assert (len(file.payload), file.num_tokens) == (137, 91)
    assert codec.compress(PHOTOS[0], max_bytes=file.file_bytes + 20) == file
    # 256 of the 288 pixels that the shorter edge becomes.
    assert codec.decompress(file).size == (round(512 * 256 / 288),) * 2
    with pytest.raises(CheckpointError, match="first 1, 5, 14, 30, 55, 91, 155, 255, 424 or all"):
        codec.compress(PHOTOS[0], tokens=92)
    image = Image.open(PHOTOS[0]).convert("RGB").resize((288, 288), Image.Resampling.LANCZOS)
    square = np.asarray(image.crop((16, 16, 272, 272)))
    golden = codec.encode(square[None])[0, :91]
    assert np.array_equal(file.tokens, golden)


def test_infinity(tmp_path):
    """Its quantizer's steps are those of its code: signs of unit length, enlarged as volumes of one
    frame are; its weights lie under ``vae``."""
    shapes = infinity(16, 32)
    weights = {k: torch.from_numpy(published.draw(k, v, 1, True)) for k, v in shapes.items()}
    averages = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({"vae": weights, "ema": averages}, tmp_path / "infinity_vae_d16.pth")
    config, tensors = convert(locate(str(tmp_path / "infinity_vae_d16.pth")), image_size=512)
    assert (config.num_tokens, config.multiple) == (2521, 0)
    plain = weights["encoder.down.1.downsample.conv.conv.weight"].numpy()
    assert np.array_equal(tensors["encoder.levels.1.reduce.weight"], plain)
    config, tensors = convert(locate(str(tmp_path / "infinity_vae_d16.pth")))
    assert list(config.token_counts) == [1, 5, 21, 57, 121, 265, 521]
    made = network(config, tensors).quantizer
    z = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(4))
    rest, sums, bits = z.permute(0, 3, 1, 2)[:, :, None], 0, []
    for side in (1, 2, 4, 6, 8, 12, 16):
        size = (1, side, side)
        part = F.interpolate(rest, size, mode="area") if side < 16 else rest
        signs = torch.where(F.normalize(part, dim=1) > 0, 1.0, -1.0) / 4
        bits.append((signs > 0).int()[:, :, 0].flatten(2))
        added = F.interpolate(signs, (1, 16, 16), mode="trilinear") if side < 16 else signs
        rest, sums = rest - added, sums + added
    worth = 2 ** torch.arange(15, -1, -1)
    expected = (torch.cat(bits, dim=2) * worth[:, None]).sum(dim=1)
    tokens = made.tokens(z)
    assert torch.equal(tokens, expected)
    torch.testing.assert_close(made.lookup(tokens), sums[:, :, 0].permute(0, 2, 3, 1))


def test_tokens_of_32_bits(tmp_path):
    shapes = infinity(32, 32)
    weights = {k: published.draw(k, v, 1, True) for k, v in shapes.items()}
    published.write(tmp_path / "d32", {}, weights)
    (tmp_path / "d32" / "config.json").unlink()
    codec = Codec.load(str(tmp_path / "d32"), "cpu")
    file = codec.compress(PHOTOS[0], tokens=21)
    assert (len(file.payload), file.bits) == (84, 32)
    assert file.tokens.max() > 2**31
    again = tokcodec.TokenFile.from_bytes(file.to_bytes())
    assert np.array_equal(again.tokens, file.tokens)
    assert codec.decompress(again).size == (512, 512)


def zeros(name, **changes):
    shapes = {**SIZES[name][0], **changes}
    zero = np.zeros((), np.float32)
    return {key: np.broadcast_to(zero, shape) for key, shape in shapes.items() if shape is not None}


@pytest.mark.parametrize(
    ("name", "changes", "side", "message"),
    [
        ("var-256", {}, 300, "squares of 256 or 512 pixels only"),
        ("var-256", {"quantize.quant_resi.qresi_ls.3.bias": None}, 256, "is missing"),
        ("var-256", {"quantize.quant_resi.qresi_ls.4.bias": (32,)}, 256, "not part of this family"),
        ("rq-vae-8x8x4", {"quantizer.codebooks.2.weight": (9, 256)}, 256, "share one codebook"),
        ("rq-vae-8x8x4", {"quantizer.codebooks.2.weight": None}, 256, "is missing"),
        ("rq-vae-8x8x4", {"quantizer.codebooks.99.weight": (1, 1)}, 256, "100 depths"),
        ("rq-vae-8x8x4", {"quantizer.codebooks.0.weight": (9,)}, 256, "expected 2 axes"),
        ("rq-vae-8x8x4", {}, 100, "must divide"),
        ("infinity-d32", {}, 128, "squares of 256, 512 or 1024 pixels only"),
        ("infinity-d32", {"quantizer.lfq.mask": (64,)}, 256, "d64 has tokens of 64 bits"),
        ("infinity-d32", {"quantizer.lfq.mask": (31,)}, 256, "is missing"),
        ("infinity-d32", {"encoder.conv_in.weight": (1,)}, 256, "two of its tensors"),
    ],
)
def test_hostile_files(name, changes, side, message):
    family, model = known()[name]
    with pytest.raises((CheckpointError, ConfigError), match=message):
        family.convert(Tensors(zeros(name, **changes)), model.config, side)


def test_each_depth_needs_the_same_codebook_and_the_config_must_agree():
    family, _ = known()["rq-vae-8x8x4"]
    other = np.ones((16385, 256), np.float32)
    with pytest.raises(CheckpointError, match="differ: all depths"):
        family.convert(
            Tensors(zeros("rq-vae-8x8x4") | {"quantizer.codebooks.3.weight": other}), {}, None
        )
    config = {
        "arch": {"hparams": {"n_embed": 16384, "embed_dim": 256}, "ddconfig": {"resolution": 512}}
    }
    ours, _ = family.convert(Tensors(zeros("rq-vae-8x8x4")), config, None)
    assert (ours.preprocessing.image_size, ours.num_tokens) == (512, 1024)
    config["arch"]["hparams"]["n_embed"] = 2048
    with pytest.raises(CheckpointError, match="n_embed: 2048"):
        family.convert(Tensors(zeros("rq-vae-8x8x4")), config, None)
