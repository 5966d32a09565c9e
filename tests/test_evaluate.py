"""Figures of images, the other codecs within their bytes, and the whole command."""

import csv
import io
import json
import os
import re
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from conftest import DATA, PHOTOS, read_fitted
from PIL import Image

pytest.importorskip("torchmetrics")

from tokcodec import TokenFile, checkpoint
from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import LatentDecoderConfig, LatentEncoderConfig
from tokcodec.evaluate import baselines, metrics
from tokcodec.evaluate.metrics import SMALLEST_SIDE, psnr, score
from tokcodec.evaluate.report import plot, table
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train.export import export

pytestmark = pytest.mark.metrics


@pytest.fixture(scope="module")
def square():
    return Image.fromarray(read_fitted(PHOTOS[2], PreprocessingConfig(), "crop").pixels[0])


def test_psnr_is_exact():
    zeros = np.zeros((4, 4, 3), np.uint8)
    assert psnr(zeros, zeros + 1) == pytest.approx(20 * np.log10(255), abs=1e-12)
    assert psnr(zeros + 255, zeros) == 0
    assert psnr(zeros, zeros) == pytest.approx(148.13, abs=0.01)


def test_scores_fall_with_noise(square):
    original = np.asarray(square)
    noise = np.random.default_rng(0).normal(size=original.shape)
    levels = [
        score(original, np.clip(original + s * noise, 0, 255).astype(np.uint8), lpips=False)
        for s in (0, 8, 32)
    ]
    assert levels[0].ssim == pytest.approx(1, abs=1e-5)
    assert levels[0].ms_ssim == pytest.approx(1, abs=1e-5)
    for field in ("psnr", "ssim", "ms_ssim"):
        values = [getattr(level, field) for level in levels]
        assert values == sorted(values, reverse=True), field
        assert len(set(values)) == 3, field
    assert levels[0].lpips is None


@pytest.mark.parametrize("name", baselines.NAMES)
def test_baselines_keep_to_their_bytes_and_use_them(name, square):
    baseline = baselines.open_baseline(name, square)
    assert not list(baseline.attempts(5))
    assert baselines.best(baseline, square, 5) is None
    previous = 0.0
    for budget in (121, 433):
        attempts = list(baseline.attempts(budget))
        assert all(attempt.file_bytes <= budget for attempt in attempts)
        assert all(attempt.image.size == square.size for attempt in attempts)
        best = baselines.best(baseline, square, budget)
        if best is None:
            assert not attempts
            continue
        values = [psnr(np.asarray(square), np.asarray(a.image)) for a in attempts]
        quality = psnr(np.asarray(square), np.asarray(best.image))
        assert quality == max(values) >= previous
        previous = quality
    assert previous > 14


def test_a_file_format_takes_the_best_quality_that_fits(square):
    baseline = baselines.open_baseline("webp", square)
    attempts = {attempt.settings: attempt for attempt in baseline.attempts(433)}
    settings = next(text for text in attempts if text.startswith("48 px"))
    quality = max(int(text.split()[-1]) for text in attempts if text.startswith("48 px"))
    settings = f"48 px, quality {quality}"
    small = square.resize((48, 48), Image.Resampling.LANCZOS)
    sizes = []
    for q in (quality, quality + 1):
        file = io.BytesIO()
        small.save(file, "WEBP", quality=q, method=6)
        sizes.append(len(file.getvalue()))
    assert sizes[0] == attempts[settings].file_bytes <= 433 < sizes[1]


def test_the_report_is_what_the_commands_do(run, tmp_path):
    done = run(
        *("evaluate", *PHOTOS, "--weights", "tokcodec", "--weights", "tokcodec"),
        *("--against", "webp,thumbhash", "-o", tmp_path / "report", "--json"),
    )
    report = json.loads(done.stdout)
    folder = tmp_path / "report"
    assert report == json.loads((folder / "report.json").read_text())
    assert {path.name for path in folder.iterdir()} == {
        *("report.json", "images.csv", "plot.png", "plot.svg"),
        *("sheet-tokcodec-16.jpg", "sheet-tokcodec-64.jpg"),
    }
    assert Image.open(folder / "sheet-tokcodec-64.jpg").size == (4 * 260, 3 * 280)
    assert (report["images"], report["failed"], report["size"]) == (3, 0, 256)
    # Each packed, and entropy-coded.
    forms = [(row["own"]["codec"], row["entropy_coded"]) for row in report["rows"]]
    assert forms == [
        (f"tokcodec-{n}", entropy_coded) for n in (16, 64) for entropy_coded in (False, True)
    ]
    first, _, second, entropy_coded = report["rows"]
    assert (first["tokens"], first["payload_bytes"], first["own"]["file_bytes"]) == (16, 26, 43)
    assert [other["codec"] for other in second["baselines"]] == ["thumbhash", "webp"]
    assert first["baselines"][1] == {
        **dict.fromkeys(("file_bytes", "psnr", "ssim", "ms_ssim", "lpips")),
        **{"codec": "webp", "images": 0},
    }
    for other in second["baselines"]:
        assert other["images"] == 3
        assert other["file_bytes"] <= 121
    for name in ("psnr", "ssim", "ms_ssim"):
        assert entropy_coded["own"][name] == second["own"][name]
    assert entropy_coded["baselines"][1]["file_bytes"] <= entropy_coded["own"]["file_bytes"] < 121
    assert entropy_coded["baselines"][1]["psnr"] < second["baselines"][1]["psnr"]

    # The same by the other commands.
    config = PreprocessingConfig()
    cropped = tmp_path / "cropped"
    cropped.mkdir()
    for photo in PHOTOS:
        Image.fromarray(read_fitted(photo, config, "crop").pixels[0]).save(cropped / photo.name)
    run("encode", cropped, "-o", tmp_path / "packed")
    run("encode", cropped, "-o", tmp_path / "entropy_coded", "--entropy-coded")
    run("decode", tmp_path / "entropy_coded", "-o", tmp_path / "decoded")
    values, tokens, sizes = [], set(), []
    for photo in PHOTOS:
        images = (cropped / photo.name, tmp_path / "decoded" / f"{photo.name}.png")
        values.append(psnr(*(np.asarray(Image.open(path)) for path in images)))
        packed = tmp_path / "packed" / f"{photo.name}.tok"
        tokens.update(TokenFile.load(packed).tokens.tolist())
        sizes.append((tmp_path / "entropy_coded" / packed.name).stat().st_size)
    assert second["own"]["psnr"] == pytest.approx(np.mean(values), abs=1e-3)
    assert entropy_coded["own"]["file_bytes"] == pytest.approx(np.mean(sizes), abs=1e-3)
    assert entropy_coded["payload_bytes"] == np.ceil(np.mean(sizes) - 17)
    assert second["usage"] == pytest.approx(len(tokens) / 8192, abs=1e-4)

    assert "lpips" not in (folder / "images.csv").read_text()
    with (folder / "images.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["codec"] == "tokcodec"]
    for form, expected in (("False", [121] * 3), ("True", sizes)):
        own = [line for line in lines if line["entropy_coded"] == form]
        assert [float(line["psnr"]) for line in own] == pytest.approx(values, abs=1e-3)
        assert [int(line["file_bytes"]) for line in own] == expected

    again = run("evaluate", PHOTOS[0], "-o", folder, status=1)
    assert b"holds report.json already (-f overwrites it)" in again.stderr


def test_prefixes_are_points_of_their_own(run, tmp_path):
    part = {"width": 32, "layers": 1, "heads": 2, "patch_size": 16}
    config = ModelConfig(
        encoder=LatentEncoderConfig(**part, num_latents=64),
        decoder=LatentDecoderConfig(**part, prefix_tokens=True),
        quantizer=CodebookConfig(codebook_size=64, embedding_dim=4),
        preprocessing=PreprocessingConfig(image_size=SMALLEST_SIDE),
    )
    model = Tokenizer(config)
    model.quantizer.codebook.normal_()
    export(model, tmp_path / "prefix.safetensors", {})
    command = ("evaluate", PHOTOS[0], "--against", "", "--json", "--weights")
    report = json.loads(run(*command, tmp_path / "prefix.safetensors").stdout)
    assert [row["tokens"] for row in report["rows"]] == [16, 32, 64]
    assert [row["payload_bytes"] for row in report["rows"]] == [12, 24, 48]
    assert [row["baselines"] for row in report["rows"]] == [[]] * 3

    small = config.replace(preprocessing=PreprocessingConfig(image_size=64))
    model = Tokenizer(small)
    model.quantizer.codebook.normal_()
    export(model, tmp_path / "small.safetensors", {})
    assert checkpoint.find(str(tmp_path / "small.safetensors")).config == small
    refused = run(*command, tmp_path / "small.safetensors", status=1).stderr
    assert b"tiles of 64 pixels: MS-SSIM needs 176 or more" in refused
    mixed = run(*command, tmp_path / "prefix.safetensors", "--weights", "tokcodec", status=1)
    assert b"checkpoints of different image sizes" in mixed.stderr


def test_names_that_are_no_text_and_codecs_that_fit_some_images(start, run, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(PHOTOS[0], os.path.join(os.fsencode(folder), b"\xff\xfe.png"))  # noqa: PTH118
    Image.new("RGB", (300, 300), (90, 120, 150)).save(folder / "flat.png")
    command = ("evaluate", folder, "--weights", "tokcodec", "--against", "jpeg,webp")
    report = json.loads(run(*command, "--json", "-o", tmp_path / "report").stdout)
    assert report["images"] == 2
    webp, jpeg = report["rows"][0]["baselines"]
    assert webp["images"] == 2
    assert jpeg["images"] == 0
    assert b"\\xff" in (tmp_path / "report" / "images.csv").read_bytes()
    plot = (tmp_path / "report" / "plot.svg").read_bytes()
    start(*command, "-f", "-o", tmp_path / "report")
    assert (tmp_path / "report" / "plot.svg").read_bytes() == plot
    run(
        *("evaluate", folder / "flat.png", "--weights", "tokcodec", "--against", ""),
        "-f",
        "-o",
        tmp_path / "report",
    )
    assert {path.name for path in (tmp_path / "report").glob("sheet-*")} == {
        "sheet-tokcodec-16.jpg"
    }


def test_lpips_is_measured_where_its_network_is(monkeypatch, square):
    # A stub in the place of the network, which is fetched elsewhere.
    network = torch.nn.Module()
    network.forward = lambda a, b, normalize: (
        (a - b).abs().mean().view(1, 1, 1, 1) * (1 + normalize)
    )
    monkeypatch.setattr(metrics, "_lpips_network", lambda: network)
    metrics.require_lpips()
    original = np.asarray(square)
    assert score(original, 255 - original, lpips=True).lpips > 0.1
    assert score(original, original, lpips=True).lpips == 0


def test_lpips_that_cannot_be_measured_is_refused_where_it_is_asked_for(run, monkeypatch):
    def fails():
        raise ModuleNotFoundError("it requires that torchvision is installed.\nOr so.")

    monkeypatch.setattr(metrics, "_lpips_network", fails)
    done = run("evaluate", PHOTOS[0], "--lpips", status=1)
    assert done.stderr == (
        b"tokcodec: no LPIPS: it requires that torchvision is installed; or leave --lpips out\n"
    )


def _mean(codec, images, file_bytes, psnr):
    whole = file_bytes is not None
    scores = {"psnr": psnr, "ssim": 0.5 if whole else None, "ms_ssim": 0.6 if whole else None}
    return {
        **{"codec": codec, "images": images, "file_bytes": file_bytes},
        **scores,
        "lpips": None,
    }


@pytest.fixture
def figures():
    """A report of four images: at 99 bytes ThumbHash as at 43, and no file of some others."""
    thumbhash = _mean("thumbhash", 4, 24.0, 16.0)
    none = (_mean("avif", 0, None, None), _mean("jpeg", 0, None, None))
    webp = (_mean("webp", 1, None, None), _mean("webp", 4, 98.0, 18.5))
    rows = [
        {
            **{
                "checkpoint_id": "0" * 64,
                "tokens": tokens,
                "entropy_coded": entropy_coded,
                "payload_bytes": 1,
            },
            **{"usage": 0.125, "perplexity": 1234.4, "own": own},
            "baselines": [thumbhash, other, *none],
        }
        for own, tokens, entropy_coded, other in (
            (_mean("tokcodec", 4, 43.0, 18.0), 16, False, webp[0]),
            (_mean("tokcodec", 4, 99.0, 20.0), 64, True, webp[1]),
        )
    ]
    return {"images": 4, "failed": 0, "fit": "crop", "size": 256, "rows": rows}


def test_the_table_has_a_row_a_codec_and_size(figures):
    head = ["", "tokens", "bytes", "PSNR, dB", "SSIM", "MS-SSIM", "codebook used", "perplexity"]
    assert table(figures) == [
        head,
        ["tokcodec, packed", "16", "43", "18.00", "0.500", "0.600", "12.5%", "1,234"],
        ["ThumbHash", "", "24", "16.00", "0.500", "0.600", "", ""],
        ["WebP", "", "fits 1 of 4", "", "", "", "", ""],
        ["AVIF, JPEG", "", "no file this small", "", "", "", "", ""],
        ["tokcodec, entropy-coded", "64", "99", "20.00", "0.500", "0.600", "12.5%", "1,234"],
        ["WebP", "", "98", "18.50", "0.500", "0.600", "", ""],
        ["AVIF, JPEG", "", "no file this small", "", "", "", "", ""],
    ]
    figures["rows"][0]["own"]["lpips"] = 0.25
    assert table(figures)[0][6] == "LPIPS"
    assert table(figures)[1][6] == "0.250"


def test_a_codec_has_one_colour_in_all_plots(figures):
    def colours(drawn):
        """Of the markers: a line each, the legend's and the panels'."""
        return set(re.findall(rb"<use [^>]*fill: (#[0-9a-f]{6})", drawn))

    both = plot(figures, ("psnr", "ms_ssim"), "svg")
    assert b"<!-- packed -->" in both
    assert b"<!-- entropy-coded -->" in both
    expected = colours(both)
    assert colours(plot(figures, ("psnr",), "svg", dark=True)) >= expected - {b"#333333"}
    for row in figures["rows"]:
        del row["baselines"][0]  # without ThumbHash the others keep theirs
    fewer = colours(plot(figures, ("psnr",), "svg"))
    assert len(expected - fewer) == 1
    assert fewer < expected


def test_without_its_packages_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr(
        "tokcodec.cli.evaluate.find_spec",
        lambda name: None if name == "torchmetrics" else find_spec(name),
    )
    done = run("evaluate", PHOTOS[0], status=1)
    assert (
        done.stderr == b"tokcodec: measuring needs torchmetrics: pip install 'tokcodec[metrics]'\n"
    )


def test_bad_input_is_named(run, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not an image")
    done = run(
        *("evaluate", tmp_path / "bad.png", DATA / "chelsea.png", "--against", "thumbhash"),
        *("--weights", "tokcodec"),
        status=3,
    )
    assert b"bad.png: cannot read the image" in done.stderr
    assert b"means over 1 image (" in done.stdout
    only = run("evaluate", tmp_path / "bad.png", "--against", "", status=1)
    assert b"no image to measure" in only.stderr
    for command in ("evaluate", "verify"):
        piped = run(command, "-", status=2, stdin=PHOTOS[0].read_bytes())
        assert b"standard input is not read here" in piped.stderr
    occupied = run("evaluate", PHOTOS[0], "-o", tmp_path / "bad.png", status=1)
    assert b"bad.png: cannot be a folder: File exists" in occupied.stderr
    twice = run("evaluate", PHOTOS[0], *["--weights", "tokcodec"] * 2, status=1)
    assert b"tokcodec: the name of several" in twice.stderr
    unknown = run("evaluate", PHOTOS[0], "--against", "webp,gif", status=2)
    assert b"--against: 'gif' is none of thumbhash, blurhash, webp" in unknown.stderr
