import contextlib
import copy
import dataclasses
import hashlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import COMMAND, PHOTOS
from PIL import Image

import tokcodec.train.batches
from tokcodec import Codec, checkpoint
from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.parts import ModelShape
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import (
    LatentDecoderConfig,
    LatentEncoderConfig,
    PatchDecoderConfig,
    PatchEncoderConfig,
)
from tokcodec.errors import DatasetError, TrainingError
from tokcodec.model import loading
from tokcodec.model.codebook import Codebook, nearest
from tokcodec.model.loading import load
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train import start
from tokcodec.train.batches import Batches, cut
from tokcodec.train.borders import blockiness
from tokcodec.train.codebook import MovingAverages, fast_tokens
from tokcodec.train.data import load_images
from tokcodec.train.loop import load_progress, make_deterministic, train
from tokcodec.train.perceptual import Lpips
from tokcodec.train.prior import fit
from tokcodec.train.recipe import Recipe
from tokcodec.train.start import begin
from tokcodec.train.step import Step

CPU = torch.device("cpu")
CUDA = "cuda"
SMALL = {"width": 32, "layers": 1, "heads": 2, "patch_size": 4}
PATCH = ModelConfig(
    encoder=PatchEncoderConfig(**SMALL),
    decoder=PatchDecoderConfig(**SMALL),
    quantizer=CodebookConfig(codebook_size=64, embedding_dim=8),
    preprocessing=PreprocessingConfig(image_size=32, pixel_scale=2),
)
LATENT = PATCH.replace(
    encoder=LatentEncoderConfig(**SMALL, num_latents=8),
    decoder=LatentDecoderConfig(**SMALL),
    quantizer=CodebookConfig(codebook_size=64, embedding_dim=8, metric="cosine"),
)


def with_decoder(config, **changes):
    return config.replace(decoder=config.decoder.replace(**changes))


PREFIXES = with_decoder(LATENT, prefix_tokens=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """240 crops of the bundled photos: half as a folder with folders, half as a tar file."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    sources = [Image.open(path).convert("RGB") for path in PHOTOS]
    with tarfile.open(folder / "some.tar", "w") as tar:
        for number in range(240):
            photo = sources[number % 3]
            left, top = (int(generator.integers(edge - 150)) for edge in photo.size)
            crop = photo.crop((left, top, left + 150, top + 120)).resize((50, 40))
            buffer = io.BytesIO()
            crop.save(buffer, "PNG")
            name = f"{number:03}.png"
            if number % 2:
                member = tarfile.TarInfo(name)
                member.size = len(buffer.getvalue())
                tar.addfile(member, io.BytesIO(buffer.getvalue()))
            else:
                path = folder / str(number % 5) / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(buffer.getvalue())
    (folder / "0" / "bad.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not an image, and not meant to be one")
    return folder


@pytest.fixture(scope="module")
def images(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    return load_images([str(photos)], frozenset(), PATCH.preprocessing, folder, 2, lambda _: None)


def test_reading_images(photos, images, tmp_path):
    assert len(images.train) + len(images.held_out) == 240
    assert len(images.held_out) > 0
    assert images.train.shape[1:] == (3, 32, 32)
    assert images.held_out.shape[1:] == (3, 32, 32)
    (skipped,) = images.skipped
    assert skipped.startswith("0/bad.jpg: ")
    # A list decides instead of chance, and decides alone; a second call reads what is there.
    keys = frozenset({"some.tar/001.png", "0/000.png", "0/010.png"})
    for _ in range(2):
        chosen = load_images([str(photos)], keys, PATCH.preprocessing, tmp_path, 2, lambda _: None)
        assert (len(chosen.train), len(chosen.held_out)) == (237, 3)
    assert chosen.fingerprint == images.fingerprint
    with pytest.raises(TrainingError, match=r"images of other sources or settings \(--held-out\)"):
        load_images([str(photos)], frozenset(), PATCH.preprocessing, tmp_path, 2, lambda _: None)


def test_few_images_and_what_cannot_be_read(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 40), (60 * number, 0, 0)).save(photos / f"{number}.png")
    (photos / "link.png").symlink_to("nowhere.png")
    (photos / "two\nlines.png").write_bytes(b"no image")
    Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png")).write_bytes(b"no image")

    def load(name, held_out=frozenset()):
        (tmp_path / name).mkdir()
        folder = tmp_path / name
        return load_images([str(photos)], held_out, PATCH.preprocessing, folder, 2, lambda _: None)

    found = load("a")
    assert len(found.skipped) == 3
    assert found.skipped[0].startswith(r"caf\xe9.png: ")
    assert found.skipped[1] == "link.png: No such file or directory"
    assert found.skipped[2].startswith(r"two\nlines.png: ")
    # None of them is drawn, so the one with the lowest hash is held out, and as a list would do it.
    lowest = min(map("{}.png".format, range(4)), key=lambda k: hashlib.sha256(k.encode()).digest())
    listed = load("b", frozenset({lowest}))
    for images in (found, listed):
        assert np.array_equal(images.held_out[0, :, 0, 0], [60 * int(lowest[0]), 0, 0])
    assert np.array_equal(found.train, listed.train)
    for name, held_out, count in (
        ("c", {"9.png"}, 0),
        ("d", set(map("{}.png".format, range(4))), 4),
    ):
        with pytest.raises(TrainingError, match=rf"4 could be read, of which {count} are held out"):
            load(name, frozenset(held_out))


def test_no_images(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        source = str(tmp_path / name)
        with pytest.raises(DatasetError, match=f"{name}: no such file, or no images in it"):
            load_images([source], frozenset(), PATCH.preprocessing, tmp_path, 1, lambda _: None)


def test_batches_depend_on_seed_and_step_alone(images):
    def of(seed, step):
        recipe = Recipe(steps=9, batch_size=8, seed=seed)
        return Batches(images.train, PREFIXES, recipe, CPU).of(step)

    draws = [of(1, 4), of(1, 4), of(2, 4), of(1, 5)]
    assert all(map(torch.equal, draws[0], draws[1]))
    for other in draws[2:]:
        assert not any(map(torch.equal, draws[0], other))
    # What is made ahead is the same, to the last step.
    recipe = Recipe(steps=9, batch_size=8, seed=1)
    ahead = list(Batches(images.train, PREFIXES, recipe, CPU).since(4))
    assert len(ahead) == 5
    assert all(map(torch.equal, ahead[0], draws[0]))
    # Where tokens stay none is revived, and all else is the same.
    *others, revival = Batches(images.train, PREFIXES, recipe, CPU, tokens_stay=True).of(4)
    assert len(revival) == 0
    assert all(map(torch.equal, others, draws[0][:3]))
    many = dataclasses.replace(recipe, batch_size=4000)
    batch = Batches(images.train, PREFIXES, many, CPU).of(0)
    top, left, edge, mirrored = batch.crops.T
    assert ((edge >= 16) & (edge <= 32) & (top + edge <= 32) & (left + edge <= 32)).all()
    assert 0.5 < (edge == 32).float().mean() < 0.6
    assert 0.45 < mirrored.mean() < 0.55
    assert (top == 16).any()
    assert set(batch.kept.tolist()) == set(range(1, 9))
    assert 0.5 < (batch.kept == 8).float().mean() < 0.65


def test_crops_are_means_over_areas(images):
    some = torch.from_numpy(images.train[:5].copy())
    whole, corner = torch.tensor([0.0, 0, 32, 0]), torch.tensor([3.0, 16, 16, 1])
    means = F.avg_pool2d(some.float() / 255, 2)
    torch.testing.assert_close(cut(some, whole.expand(5, 4), 16), means)
    expected = some[:, :, 3:19, 16:32].flip(-1) / 255
    torch.testing.assert_close(cut(some, corner.expand(5, 4), 16), expected)
    # A size that is no multiple: 5 thirds of a pixel each. The mean of all stays.
    odd = cut(some, torch.tensor([1.0, 2, 20, 0]).expand(5, 4), 12)
    row = some[:, :, 1:21, 2:22].float().mean(dim=2) / 255
    torch.testing.assert_close(odd[..., 0].mean(dim=2), row[..., 0] * 0.6 + row[..., 1] * 0.4)
    mixed = cut(some, torch.stack([whole, corner, whole, corner, whole]), 16)
    torch.testing.assert_close(mixed[0::2], means[0::2])
    torch.testing.assert_close(mixed[1::2], expected[1::2])


@pytest.mark.parametrize(("size", "cosine"), [(8192, False), (1000, True)])
def test_the_fast_search_differs_in_near_ties_alone(size, cosine):
    generator = torch.Generator().manual_seed(0)
    z, codebook = (torch.randn(n, 32, generator=generator) for n in (4096, size))
    metric = "cosine" if cosine else "euclidean"
    config = CodebookConfig(codebook_size=size, embedding_dim=32, metric=metric)
    quantizer = Codebook(config, ModelShape(0, (), 32))
    quantizer.codebook.copy_(codebook)
    fast = fast_tokens(*quantizer.compared(z))
    if cosine:
        z, codebook = F.normalize(z, dim=1), F.normalize(codebook, dim=1)
    exact = nearest(z, codebook)
    differ = fast != exact
    assert differ.float().mean() < 1e-3
    a, b = ((z - codebook[tokens]).double().square().sum(dim=1) for tokens in (fast, exact))
    assert ((a - b) <= 1e-5 * b).all()


def test_the_codebook_follows_means_and_dead_tokens_come_back():
    codebook = torch.tensor([[0.0, 0.0], [10.0, 10.0], [-50.0, 0.0]])
    averages = MovingAverages(codebook, tokens_per_step=6, decay=0.5, dead_below=0.1)
    z = torch.tensor([[1.0, 1.0]] * 4 + [[9.0, 12.0]] * 2)
    tokens = torch.tensor([0] * 4 + [1] * 2)
    revival = torch.tensor([0, 0, 5])
    # Uses begin at the mean, 2: the first token now has (2 + 4) / 2 = 3, the sum (0 + 4) / 2 = 2.
    averages.update(z, tokens, revival)
    torch.testing.assert_close(codebook[0], torch.tensor([2 / 3, 2 / 3]))
    torch.testing.assert_close(codebook[1], torch.tensor([9.5, 11.0]))
    torch.testing.assert_close(codebook[2], torch.tensor([-50.0, 0.0]))
    for _ in range(4):
        averages.update(z, tokens, revival)
    # Its moving average of uses fell from 2 below 0.1 of the mean: it is the drawn z now.
    assert codebook[2].tolist() == [9.0, 12.0]


def test_a_masked_tail_of_tokens_is_as_if_it_were_not_there():
    torch.manual_seed(0)
    for change in ({}, {"class_token": True}):
        decoder = Tokenizer(with_decoder(PREFIXES, **change)).decoder
        for parameter in decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        z_q = torch.randn(3, 8, 8)
        kept = torch.tensor([1, 5, 8])
        masked = decoder(z_q, kept)
        for row, count in enumerate(kept.tolist()):
            alone = decoder(z_q[row : row + 1, :count])
            torch.testing.assert_close(masked[row : row + 1], alone)


@pytest.mark.parametrize("config", [PATCH, LATENT], ids=["patch", "latent"])
def test_training_makes_better_images(config, images, tmp_path):
    reports = []
    recipe = Recipe(steps=240, batch_size=16, warmup=20, report_every=120, ema_decay=0.98)
    header = train(config, recipe, images, tmp_path, CPU, {"command": "test"}, reports.append)
    assert [report.step for report in reports] == [120, 240]
    assert header == checkpoint.find(str(tmp_path / "model.safetensors"))
    facts = header.provenance
    assert facts["command"] == "test"
    assert facts["step"] == 240
    assert facts["recipe"]["seed"] == 0
    assert facts["training_images"] == len(images.train)
    assert facts["held_out_psnr"] == round(reports[-1].psnr, 3)
    assert facts["held_out_psnr"] > facts["held_out_psnr_at_start"] + 0.1
    assert reports[-1].usage > 0.1
    # What was measured is what the exported file does.
    codec = Codec.load(header, device="cpu")
    original = torch.from_numpy(images.held_out.copy()).float()
    decoded = (codec.decode(codec.encode(original / 255)) * 255).round()
    error = (decoded - original).square().mean(dim=(1, 2, 3))
    psnr = float((10 * torch.log10(255**2 / error)).mean())
    assert psnr == pytest.approx(facts["held_out_psnr"], abs=0.01)


def test_the_start_alone_is_vector_quantization(images, tmp_path):
    # Before any gradient step the patch layout tokens principal components with k-means; that is
    # far better than the mean colour of each patch.
    recipe = Recipe(steps=1, batch_size=4, learning_rate=0.0, report_every=1)
    header = train(PATCH, recipe, images, tmp_path, CPU, {}, lambda _: None)
    original = images.held_out.astype(np.float64)
    blocks = original.reshape(-1, 3, 4, 8, 4, 8)
    flat = np.broadcast_to(blocks.mean(axis=(3, 5), keepdims=True), blocks.shape)
    error = ((blocks - flat) ** 2).mean(axis=(1, 2, 3, 4, 5))
    assert header.provenance["held_out_psnr_at_start"] > (10 * np.log10(255**2 / error)).mean()


def test_a_latent_start_decodes_every_prefix(images, tmp_path):
    # Before any gradient step, each further latent adds to the image.
    wide = SMALL | {"width": 64}
    config = LATENT.replace(
        encoder=LatentEncoderConfig(**wide, num_latents=16),
        decoder=LatentDecoderConfig(**wide, prefix_tokens=True),
        quantizer=CodebookConfig(codebook_size=64, embedding_dim=8),
    )
    recipe = Recipe(steps=1, batch_size=4, learning_rate=0.0, report_every=1)
    header = train(config, recipe, images, tmp_path, CPU, {}, lambda _: None)
    codec = Codec.load(header, device="cpu")
    original = torch.from_numpy(images.held_out.copy()).float() / 255
    tokens = codec.encode(original)
    errors = [float((codec.decode(tokens[:, :n]) - original).square().mean()) for n in (1, 4, 16)]
    assert errors == sorted(errors, reverse=True)
    mean_colour = original.mean(dim=(2, 3), keepdim=True)
    assert errors[-1] < (mean_colour - original).square().mean() < 1.5 * errors[0]


def test_kinks_are_steps_across_borders_beside_the_slopes_there():
    nothing = pytest.approx(1 / 255)
    row = torch.linspace(-1, 1, 16)
    ramp = torch.stack([row.expand(16, 16), row.expand(16, 16).T, row + row[:, None]])[None]
    assert blockiness(ramp, 4) == nothing
    steps = (torch.arange(16) // 4 * 0.5).expand(1, 3, 16, 16)
    assert blockiness(steps, 4) == pytest.approx(0.25, abs=0.01)  # 0.5 along one of two axes
    assert blockiness(steps.mT + ramp, 4) == pytest.approx(0.25, abs=0.01)
    assert blockiness(steps.roll(2, dims=-1), 4) == nothing  # in the midst of patches


def test_a_decoder_alone_keeps_the_tokens(images, tmp_path):
    recipe = Recipe(steps=40, batch_size=16, warmup=10, ema_decay=0.9)
    base = train(PATCH, recipe, images, tmp_path / "base", CPU, {}, lambda _: None)
    # Bit by bit, with a zero that has a sign.
    _, tensors = checkpoint.read(base.path)
    tensors["encoder.to_embedding.bias"] = tensors["encoder.to_embedding.bias"].copy()
    tensors["encoder.to_embedding.bias"][0] = -0.0
    tokens = np.arange(64).reshape(4, 16)
    prior, _ = fit(
        [tokens.reshape(-1, 4, 4)], torch.from_numpy(tensors["quantizer.codebook"]).float()
    )
    facts = {**base.provenance, "prior": {"images": 4}}
    base = checkpoint.write(base.path, PATCH, {**tensors, **prior.tensors()}, facts)
    config = with_decoder(PATCH, layers=2, pixel_overlap=2)
    (tmp_path / "run").mkdir()
    arguments = (images, tmp_path / "run", CPU, {}, lambda _: None, base, True)
    recipe = dataclasses.replace(recipe, steps=120)
    header = train(config, recipe, *arguments)
    assert header.model_id == base.model_id
    assert header.prior_id == base.prior_id
    assert header.checkpoint_id != base.checkpoint_id
    facts = header.provenance
    # The new block and the overlap add nothing at the start.
    assert facts["held_out_psnr_at_start"] == pytest.approx(
        base.provenance["held_out_psnr"], abs=0.01
    )
    assert facts["held_out_psnr"] > facts["held_out_psnr_at_start"] + 0.05
    assert facts["tokens_of"] == base.provenance
    assert facts["prior"] == {"images": 4}
    original = torch.from_numpy(images.held_out.copy()).float() / 255
    tokens = [Codec.load(h, device="cpu").encode(original) for h in (base, header)]
    assert torch.equal(*tokens)

    # With steps at borders unlearned, the same tokens show fewer of them.
    smooth = dataclasses.replace(recipe, deblocking=0.1)
    (tmp_path / "smooth").mkdir()
    unlearned = (images, tmp_path / "smooth", CPU, {}, lambda _: None, base, True)
    other = train(config, smooth, *unlearned)
    models = [load(h, CPU) for h in (header, other)]
    shown = [model.decoder(model.quantizer.lookup(tokens[0].view(-1, 4, 4))) for model in models]
    assert blockiness(shown[1], 4) < 0.8 * blockiness(shown[0], 4)
    assert other.provenance["held_out_psnr"] > facts["held_out_psnr"] - 0.15

    # Another kind of decoder starts afresh; the tokens stay all the same.
    for change in ({"width": 64}, {"heads": 1}):
        other = with_decoder(PATCH, **change)
        folder = tmp_path / next(iter(change))
        folder.mkdir()
        short = dataclasses.replace(recipe, steps=1)
        afresh = train(other, short, images, folder, CPU, {}, lambda _: None, base, True)
        assert afresh.model_id == base.model_id

    # A trained convolution goes on too: one that makes grey of all is still there.
    smooth = with_decoder(PATCH, pixel_convolution=True)
    model = load(base, CPU).state_dict()
    kernel = {"weight": torch.zeros(3, 3, 3, 3), "bias": torch.zeros(3)}
    model |= {f"decoder.to_pixels.convolution.{name}": part for name, part in kernel.items()}
    grey = checkpoint.write(
        tmp_path / "grey.safetensors", smooth, {k: t.half().numpy() for k, t in model.items()}, {}
    )
    larger = with_decoder(smooth, pixel_overlap=2)
    (tmp_path / "grey").mkdir()
    still = dataclasses.replace(recipe, steps=1, learning_rate=0)
    header = train(larger, still, images, tmp_path / "grey", CPU, {}, lambda _: None, grey)
    assert (Codec.load(header, device="cpu").decode(tokens[0]) == 0.5).all()
    with pytest.raises(TrainingError, match=r"decoder of .*grey\.safetensors: .*--tokens-of"):
        train(PATCH, still, *arguments[:-2], grey)

    # Weights that float16 would change give other tokens: refused.
    _, tensors = checkpoint.read(base.path)
    wide = {
        name: array.astype(np.float32) * np.float32(1.0001)
        for name, array in tensors.items()
        if not name.startswith("prior.")
    }
    exact = checkpoint.write(tmp_path / "wide.safetensors", PATCH, wide, {})
    (tmp_path / "refused").mkdir()
    with pytest.raises(TrainingError, match=r"wide.safetensors: its weights are not float16"):
        train(config, recipe, images, tmp_path / "refused", CPU, {}, lambda _: None, exact, True)

    with pytest.raises(TrainingError, match=r"encoder or codebook than \S*model\.safetensors"):
        train(LATENT, recipe, *arguments)
    with pytest.raises(TrainingError, match="other settings or images"):
        train(config, recipe, *arguments[:-2])


def test_training_goes_on_from_a_checkpoint(photos, images, tmp_path, run):
    recipe = Recipe(steps=40, batch_size=16, warmup=10, ema_decay=0.9)
    base = train(PATCH, recipe, images, tmp_path / "base", CPU, {}, lambda _: None)
    (tmp_path / "config.json").write_text(PATCH.to_json())
    command = (
        *("train", photos, "-o", tmp_path / "next", "--model", tmp_path / "config.json"),
        *("--from", base.path, "--steps", "150", "--warmup", "5", "--batch-size", "16"),
    )
    run(*command)
    header = checkpoint.read_header(tmp_path / "next" / "model.safetensors")
    facts = header.provenance
    assert facts["from"] == base.provenance
    assert facts["held_out_psnr_at_start"] == base.provenance["held_out_psnr"]
    assert facts["held_out_psnr"] > facts["held_out_psnr_at_start"]
    assert header.model_id != base.model_id
    both = run(*command, "--tokens-of", base.path, status=1)
    assert b"--tokens-of already begins with the weights it names" in both.stderr


@pytest.mark.parametrize("tokens_stay", [False, True])
@pytest.mark.parametrize("config", [PATCH, LATENT, PREFIXES], ids=["patch", "latent", "prefixes"])
def test_a_step_waits_for_nothing_and_mixes_no_devices(config, tokens_stay, monkeypatch):
    # The meta device has no numbers to wait for, and takes no tensors of others. What it lacks:
    # autocast, so in float32, and the fused optimizer, so in its plain form.
    plain = torch.optim.AdamW.__init__
    monkeypatch.setattr(
        torch.optim.AdamW, "__init__", lambda *args, **kw: plain(*args, **{**kw, "fused": None})
    )
    meta = torch.device("meta")
    recipe = Recipe(steps=9, batch_size=8, deblocking=0.1, spectra=1.0, lpips=1.0)
    if tokens_stay:
        recipe = dataclasses.replace(recipe, adversarial=0.1)
    step = Step(Tokenizer(config).to(meta), recipe, tokens_stay, Lpips())
    images = np.zeros((20, 3, 32, 32), np.uint8)
    for batch in Batches(images, config, recipe, meta, tokens_stay).since(7):
        assert {tensor.device for tensor in batch} == {meta}
        assert step(batch).device == meta
    assert step.number == 2


def test_two_processes_do_what_one_does(photos, tmp_path):
    (tmp_path / "config.json").write_text(PATCH.to_json())

    def arguments(output):
        return [
            *("-m", "tokcodec", "train", photos, "-o", output, "--model", tmp_path / "config.json"),
            *("--steps", "30", "--report-every", "10", "--batch-size", "8", "--warmup", "5"),
            *("--device", "cpu", "--dtype", "float32"),
        ]

    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for way, command in (
        ("one", [*arguments(tmp_path / "one")]),
        ("two", [*several, *arguments(tmp_path / "two")]),
    ):
        done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, check=True)
        assert done.stderr.count(b"held-out PSNR") == 3, way
        assert done.stdout.decode() == f"{tmp_path / way / 'model.safetensors'}\n"
    one, two = (checkpoint.read(tmp_path / way / "model.safetensors") for way in ("one", "two"))
    for name, tensor in one[1].items():
        np.testing.assert_allclose(two[1][name], tensor, atol=2e-3, err_msg=name)
    psnr = [header.provenance["held_out_psnr"] for header, _ in (one, two)]
    assert psnr[0] == pytest.approx(psnr[1], abs=0.02)
    # One process goes on where two stopped.
    longer = subprocess.run(
        [sys.executable, *map(str, arguments(tmp_path / "two"))],
        capture_output=True,
        check=True,
    )
    assert b"held-out PSNR" not in longer.stderr


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("config", [PATCH, LATENT, PREFIXES], ids=["patch", "latent", "prefixes"])
def test_a_step_on_cuda_is_that_of_the_cpu(config, compiled, images):
    torch.manual_seed(0)
    begun = Tokenizer(config)
    begin(begun, images.train, 0)
    recipe = Recipe(steps=9, batch_size=16, warmup=0, deblocking=0.1, spectra=0.1)
    ends = []
    for name in ("cpu", CUDA):
        device = torch.device(name)
        own = dataclasses.replace(recipe, compiled=compiled and name == CUDA)
        step = Step(copy.deepcopy(begun).to(device), own)
        batches = Batches(images.train, config, own, device)
        losses = [float(step(batches.of(number))) for number in range(3)]
        ends.append((losses, {n: t.cpu() for n, t in step.model.state_dict().items()}))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-3)
    for name, tensor in ends[0][1].items():
        torch.testing.assert_close(ends[1][1][name], tensor, atol=5e-3, rtol=0, msg=name)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("share", [1.0, 0.0], ids=["on the device", "from a file"])
def test_a_stopped_run_on_cuda_goes_on(images, tmp_path, monkeypatch, share):
    monkeypatch.setattr(tokcodec.train.batches, "_SHARE_OF_MEMORY", share)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    make_deterministic()
    try:
        base = train(PATCH, Recipe(steps=1), images, tmp_path, torch.device(CUDA), {}, print)
        ends = list(with_and_without_a_stop(images, tmp_path, torch.device(CUDA), base))
    finally:
        torch.use_deterministic_algorithms(False)
    assert ends[0].checkpoint_id == ends[1].checkpoint_id


def with_and_without_a_stop(images, folder, device, base):
    recipe = Recipe(steps=4, batch_size=4, warmup=0, report_every=2, adversarial=0.1)
    for name, stop in (("whole", None), ("stopped", 2)):
        (folder / name).mkdir()

        def report(now, stop=stop):
            if now.step == stop:
                raise KeyboardInterrupt

        arguments = (PATCH, recipe, images, folder / name, device, {})
        with contextlib.suppress(KeyboardInterrupt):
            train(*arguments, report, base, True)
        yield train(*arguments, lambda _: None, base, True)


def test_a_decoder_learns_from_a_discriminator_and_goes_on(images, tmp_path):
    base = train(PATCH, Recipe(steps=1), images, tmp_path, CPU, {}, lambda _: None)
    recipe = Recipe(steps=4, batch_size=4, warmup=0, report_every=2, adversarial=0.1)
    ends = list(with_and_without_a_stop(images, tmp_path, CPU, base))
    assert ends[0].checkpoint_id == ends[1].checkpoint_id
    assert ends[0].model_id == base.model_id
    (tmp_path / "without").mkdir()
    plain = dataclasses.replace(recipe, adversarial=0.0)
    other = train(PATCH, plain, images, tmp_path / "without", CPU, {}, lambda _: None, base, True)
    assert other.checkpoint_id != ends[0].checkpoint_id
    with pytest.raises(TrainingError, match="--adversarial is for a decoder alone"):
        train(PATCH, recipe, images, tmp_path / "all", CPU, {}, lambda _: None)
    (tmp_path / "wild").mkdir()
    wild = dataclasses.replace(recipe, r3gan_gamma=math.inf)
    with pytest.raises(TrainingError, match="diverged at step 2"):
        train(PATCH, wild, images, tmp_path / "wild", CPU, {}, lambda _: None, base, True)


def test_diverging_ends_in_one_line(images, tmp_path):
    for folder in ("late", "soon", "base", "decoder"):
        (tmp_path / folder).mkdir()
    recipe = Recipe(steps=50, batch_size=4, learning_rate=1e30, warmup=0)
    with pytest.raises(TrainingError, match=r"diverged at step \d+; lower --learning-rate"):
        train(PATCH, recipe, images, tmp_path / "late", CPU, {}, lambda _: None)
    recipe = dataclasses.replace(recipe, report_every=1)
    with pytest.raises(TrainingError, match="diverged at step 1; lower --learning-rate"):
        train(PATCH, recipe, images, tmp_path / "soon", CPU, {}, lambda _: None)

    # A decoder alone does too; what the folder held stays.
    short = Recipe(steps=2, batch_size=4)
    base = train(PATCH, short, images, tmp_path / "base", CPU, {}, lambda _: None)
    wild = dataclasses.replace(short, deblocking=math.inf)
    with pytest.raises(TrainingError, match="diverged at step 1; lower"):
        train(PATCH, wild, images, tmp_path / "decoder", CPU, {}, lambda _: None, base, True)
    left = checkpoint.read_header(tmp_path / "decoder" / "model.safetensors")
    assert left.provenance["step"] == 0


def test_a_run_goes_on_in_its_own_precision(photos, tmp_path, run, monkeypatch):
    (tmp_path / "config.json").write_text(PATCH.to_json())
    command = (
        *("train", photos, "-o", tmp_path / "run", "--model", tmp_path / "config.json"),
        *("--steps", "2", "--batch-size", "4", "--device", "cpu", "--deterministic"),
    )
    try:
        assert b"bfloat16 on cpu" in run(*command, "--dtype", "bfloat16").stderr
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    # What auto would take on another machine does not matter.
    monkeypatch.setattr(loading, "fastest_dtype", lambda _: "float32")
    again = run(*command[:-1]).stderr.decode()
    assert "goes on from step 2, as it was begun in bfloat16 on cpu" in again
    # So it does with whether the step is compiled; and it says that there is nothing left to do.
    path = tmp_path / "run" / "state.pt"
    state = torch.load(path)
    state["settings"] = state["settings"].replace('"compiled": false', '"compiled": true')
    torch.save(state, path)
    remedy = f"begin another run with --from {tmp_path / 'run' / 'model.safetensors'}\n"
    for said in (again, run(*command[:-1]).stderr.decode()):
        assert "all 2 steps were done before: to train on, " + remedy in said
    other = run(*command[:-1], "--dtype", "float32", "--seed", "3", status=1)
    assert b"dtype bfloat16, not float32, seed 0, not 3; repeat its command" in other.stderr
    longer = ["4" if argument == "2" else argument for argument in command[:-1]]
    further = run(*longer, status=1).stderr.decode()
    assert ": steps 2, not 4; repeat" in further
    assert "to train on from where it stands with --from " in further


@pytest.mark.parametrize("state", [b"", b"junk", b"PK\3\4", [], {"settings": "[]", "step": 1}])
def test_a_damaged_state_is_named(tmp_path, state):
    path = tmp_path / "state.pt"
    path.write_bytes(state) if isinstance(state, bytes) else torch.save(state, path)
    with pytest.raises(TrainingError, match=r"state\.pt: damaged: .*; delete it to begin again"):
        load_progress(tmp_path)


@pytest.mark.parametrize("text", [b"", b"one line", b"\xff\n\xff"])
def test_a_damaged_fingerprint_is_named(tmp_path, text):
    (tmp_path / "fingerprint").write_bytes(text)
    with pytest.raises(TrainingError, match=r"fingerprint: damaged: .*; delete it, and the pict"):
        load_images(["a"], frozenset(), PATCH.preprocessing, tmp_path, 1, lambda _: None)


def test_other_settings_are_refused(images, tmp_path):
    recipe = Recipe(steps=2, batch_size=4)
    train(PATCH, recipe, images, tmp_path, CPU, {}, lambda _: None)
    larger = with_decoder(PATCH, layers=2, pixel_overlap=1)
    for other, said in (
        (
            (larger, recipe, images),
            "the model's decoder.layers 1, not 2, the model's pixel_overlap none, not 1",
        ),
        ((PATCH, dataclasses.replace(recipe, seed=1), images), "seed 0, not 1"),
        ((PATCH, recipe, dataclasses.replace(images, fingerprint="0")), "the images"),
    ):
        with pytest.raises(TrainingError, match=f"other settings or images: {said}; repeat"):
            train(*other, tmp_path, CPU, {}, lambda _: None)


def test_a_start_from_a_checkpoint_needs_no_components(images, tmp_path, monkeypatch):
    base = train(PATCH, Recipe(steps=1), images, tmp_path, CPU, {}, lambda _: None)
    larger = with_decoder(PATCH, layers=2, pixel_overlap=2, pixel_convolution=True)

    def begun(config):
        torch.manual_seed(0)
        model = Tokenizer(config)
        begin(model, images.train, 0, base)
        return model

    monkeypatch.setattr(start, "_principal_components", lambda *_: pytest.fail("not needed"))
    some = torch.from_numpy(images.held_out[:4].copy()).float() / 255
    a, b = load(base, CPU), begun(larger)
    for model in (a, b):
        model.eval()
    with torch.inference_mode():
        tokens = a.encode(a.shrink(some))
        assert torch.equal(b.encode(b.shrink(some)), tokens)
        torch.testing.assert_close(b.decode(tokens), a.decode(tokens))


def test_warming_up_takes_a_tenth_at_most_unless_asked(photos, tmp_path, run):
    (tmp_path / "config.json").write_text(PATCH.to_json())
    for number, (options, expected) in enumerate(((("--warmup", "30"), 30), ((), 2))):
        folder = tmp_path / str(number)
        run(
            *("train", photos, "-o", folder, "--model", tmp_path / "config.json", "--device"),
            *("cpu", "--steps", "20", "--batch-size", "2", *options),
        )
        header = checkpoint.read_header(folder / "model.safetensors")
        assert header.provenance["recipe"]["warmup"] == expected


def test_a_killed_run_ends_in_the_same_weights(photos, tmp_path, run):
    (tmp_path / "config.json").write_text(PATCH.to_json())

    def command(output):
        return [
            *("train", photos, "-o", output, "--model", tmp_path / "config.json"),
            *("--steps", "40", "--report-every", "5", "--batch-size", "8", "--device", "cpu"),
        ]

    unbroken = run(*command(tmp_path / "unbroken"))
    assert unbroken.stderr.count(b"held-out PSNR") == 8
    broken = tmp_path / "broken"
    for _ in range(2):
        # Killed as soon as two more reports are out, without a chance to tidy up.
        process = subprocess.Popen(
            [COMMAND, *map(str, command(broken))], stderr=subprocess.PIPE, start_new_session=True
        )
        seen = 0
        for line in process.stderr:
            seen += b"held-out PSNR" in line
            if seen == 2:
                break
        os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()
        assert process.wait() == -signal.SIGKILL
    assert run(*command(broken)).stderr.count(b"held-out PSNR") <= 4
    headers = [
        checkpoint.read(tmp_path / name / "model.safetensors")[0] for name in ("unbroken", "broken")
    ]
    assert headers[0].checkpoint_id == headers[1].checkpoint_id
    assert headers[0].provenance["step"] == 40
    # The log has every report once, and the sheet is of the same weights.
    timed = ("images_per_second", "utilization")
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").open()]
        for name in ("unbroken", "broken")
    ]
    for entry in logs[0] + logs[1]:
        assert all(entry.pop(name) > 0 for name in timed)
    assert logs[0] == logs[1]
    assert [entry["step"] for entry in logs[0]] == [5, 10, 15, 20, 25, 30, 35, 40]
    sheets = [(tmp_path / name / "sheet.jpg").read_bytes() for name in ("unbroken", "broken")]
    assert sheets[0] == sheets[1]
    assert json.dumps(headers[0].provenance["recipe"]) == json.dumps(
        headers[1].provenance["recipe"]
    )
