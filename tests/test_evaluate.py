"""Scores, baselines within their bytes, the report, and the command."""

import csv
import json
import os
import shutil
import xml.etree.ElementTree as ET
from importlib.util import find_spec

import numpy as np
import pytest
import small_models
import torch
from conftest import PHOTOS
from PIL import Image

pytest.importorskip("torchmetrics")

import tokcodec
from tokcodec import Codec
from tokcodec.errors import ArgumentError, EvaluationError, OutputError
from tokcodec.evaluate import baselines, metrics
from tokcodec.evaluate import run as calls
from tokcodec.evaluate.metrics import SMALLEST_EDGE, psnr, score
from tokcodec.evaluate.plot import plot
from tokcodec.evaluate.report import table, to_json
from tokcodec.io.lock import LOCK, locked

pytestmark = pytest.mark.metrics

EDGE = 224  # of the images that are measured here
LIMITS = (50, 120, 300)


@pytest.fixture(scope="module")
def photo():
    """A photo that is not square."""
    image = Image.open(PHOTOS[2]).convert("RGB")
    image.thumbnail((256, 256))
    return image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photos, one of a name that is no text, and an image that any codec can encode."""
    folder = tmp_path_factory.mktemp("photos")
    shutil.copy(PHOTOS[1], folder / "chelsea.png")
    shutil.copy(PHOTOS[2], os.path.join(os.fsencode(folder), b"\xff\xfe.png"))  # noqa: PTH118
    Image.new("RGB", (300, 200), (90, 120, 150)).save(folder / "flat.png")
    return folder


@pytest.fixture(scope="module")
def evaluated(photos, tiny, tmp_path_factory):
    """A report, and its folder."""
    folder = tmp_path_factory.mktemp("report") / "new"
    report = tokcodec.evaluate(
        [str(photos)],
        folder,
        weights=[str(tiny)],
        baselines=("jpeg", "webp", "thumbhash"),
        bytes=LIMITS,
        max_edge=EDGE,
        device="cpu",
    )
    return report, folder


# Scores and baselines


def test_psnr_is_exact():
    zeros = np.zeros((4, 4, 3), np.uint8)
    assert psnr(zeros, zeros + 1) == pytest.approx(20 * np.log10(255), abs=1e-12)
    assert psnr(zeros + 255, zeros) == 0
    assert psnr(zeros, zeros) == pytest.approx(148.13, abs=0.01)


def test_scores_fall_with_noise(photo):
    original = np.asarray(photo.resize((256, SMALLEST_EDGE)))
    noise = np.random.default_rng(0).normal(size=original.shape)
    levels = [
        score(original, np.clip(original + s * noise, 0, 255).astype(np.uint8), lpips=False)
        for s in (0, 8, 32)
    ]
    assert levels[0]["ssim"] == pytest.approx(1, abs=1e-5)
    assert levels[0]["ms_ssim"] == pytest.approx(1, abs=1e-5)
    for name in ("psnr", "ssim", "ms_ssim"):
        values = [level[name] for level in levels]
        assert values == sorted(values, reverse=True), name
        assert len(set(values)) == 3, name
    assert "lpips" not in levels[0]


@pytest.mark.parametrize("name", baselines.NAMES)
def test_baselines_keep_to_their_bytes_and_use_them(name, photo):
    baseline = baselines.open_baseline(name, photo)
    assert baseline.best(5) is None
    previous = 0.0
    for limit in (121, 433):
        best = baseline.best(limit)
        if best is None:
            assert previous == 0
            continue
        assert best.file_bytes <= limit
        assert best.image.size == photo.size
        assert best.psnr == pytest.approx(psnr(np.asarray(photo), np.asarray(best.image)))
        assert best.psnr >= previous
        previous = best.psnr
    assert previous > 14


@pytest.mark.parametrize("name", ["webp", "jpeg"])
def test_no_scale_and_quality_is_much_better_than_the_best(name, photo):
    limit = 500
    baseline = baselines.open_baseline(name, photo)
    best = baseline.best(limit)
    every = (
        baselines.open_baseline(name, photo)._decode(edge, quality)
        for edge in (44, 52, 60, 72, 88, 104, 120)
        for quality in range(0, 40, 3)
    )
    fitting = max(attempt.psnr for attempt in every if attempt.file_bytes <= limit)
    assert best.psnr > fitting - 0.1


def test_a_search_encodes_nothing_twice(photo, monkeypatch):
    encoded = []
    save = Image.Image.save

    def count(image, file, **options):
        encoded.append((image.size, options["quality"]))
        save(image, file, **options)

    monkeypatch.setattr(Image.Image, "save", count)
    baseline = baselines.open_baseline("jpeg", photo)
    for limit in (*LIMITS, 600, 800):
        baseline.best(limit)
    assert 0 < len(encoded) == len(set(encoded)) < 250


# The report


def test_every_codec_keeps_to_the_limit(evaluated):
    report, folder = evaluated
    assert (report.images, report.failed, report.fit) == (3, 0, None)
    assert {row.size for row in report.rows} == {None}
    assert [row.max_bytes for row in report.rows] == list(LIMITS)
    tokens = [row.tokens for row in report.rows]
    assert tokens == sorted(set(tokens))
    with (folder / "images.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {int(line["max_bytes"]) for line in lines} == set(LIMITS)
    assert all(int(line["file_bytes"]) <= int(line["max_bytes"]) for line in lines)
    assert len({line["image"] for line in lines}) == 3


def test_the_checkpoint_is_measured_as_the_codec_works(evaluated, photos, tiny):
    codec = Codec.load(str(tiny), device="cpu")
    _, folder = evaluated
    with (folder / "images.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["codec"] == "patch"]
    original = Image.open(photos / "chelsea.png").convert("RGB")
    size = (round(original.width * SMALLEST_EDGE / original.height), SMALLEST_EDGE)
    small = original.resize(size, Image.Resampling.BICUBIC)  # the shorter edge as MS-SSIM needs it
    own = [line for line in lines if line["image"].endswith("chelsea.png")]
    assert len(own) == len(LIMITS)
    for line in own:
        limit = int(line["max_bytes"])
        file = codec.compress(small, fit="aspect", max_bytes=limit)
        assert (int(line["tokens"]), int(line["file_bytes"])) == (file.num_tokens, file.file_bytes)
        decoded = np.asarray(codec.decompress(file))
        assert float(line["psnr"]) == pytest.approx(psnr(np.asarray(small), decoded), abs=1e-3)


def test_means_are_over_all_images_or_none(evaluated):
    report, folder = evaluated
    with (folder / "images.csv").open() as file:
        lines = list(csv.DictReader(file))
    for row in report.rows:
        assert [mean.codec for mean in row.baselines] == ["thumbhash", "webp", "jpeg"]
        for mean in (row.own, *row.baselines):
            found = [
                line
                for line in lines
                if line["codec"] == mean.codec and int(line["max_bytes"]) == row.max_bytes
            ]
            assert mean.images == len(found)
            for name in ("file_bytes", "psnr", "ssim", "ms_ssim"):
                expected = np.mean([float(line[name]) for line in found]) if found else 0
                value = getattr(mean, name)
                assert (value is None) == (len(found) < 3)
                assert value is None or value == pytest.approx(expected, abs=1e-3)
        known = {mean.codec: mean.psnr for mean in row.baselines if mean.psnr is not None}
        best = max(known, key=known.get)
        assert (row.best_baseline, row.gain) == (best, row.own.psnr - known[best])
    webp = report.rows[0].baselines[1]
    assert 0 < webp.images < 3  # the most detailed image has no file that small


def test_the_folder_holds_the_report(evaluated):
    report, folder = evaluated
    assert json.loads((folder / "report.json").read_text()) == to_json(report)
    assert {path.name for path in folder.iterdir()} == {
        *("report.json", "images.csv", "plot.svg"),
        *(f"sheet-patch-{limit}-bytes.jpg" for limit in LIMITS),
    }
    # Images in their own shape: a row each, the widest sets the columns.
    sheet = Image.open(folder / "sheet-patch-300-bytes.jpg")
    assert sheet.width % (265 + 4) == 0
    assert b"\\xff" in (folder / "images.csv").read_bytes()


def test_a_report_is_not_overwritten_unless_it_is_wanted(photos, tiny, tmp_path):
    def evaluate(limit, **options):
        tokcodec.evaluate(
            [str(photos / "flat.png")],
            tmp_path,
            weights=[str(tiny)],
            baselines=(),
            bytes=(limit,),
            device="cpu",
            **options,
        )

    evaluate(40)
    with pytest.raises(OutputError):
        evaluate(60)
    evaluate(60, overwrite=True)
    assert [path.name for path in tmp_path.glob("sheet-*")] == ["sheet-patch-60-bytes.jpg"]


@pytest.mark.parametrize("command", ["evaluate", "page"])
def test_one_run_at_a_time_writes_to_a_folder(run, photos, tiny, tmp_path, command):
    options = ("--weights", tiny, "--against", "", "--bytes", "40", "-o", tmp_path / "out")
    with locked(tmp_path / "out"):
        refused = run(command, photos / "flat.png", *options, status=1)
        assert len(refused.stderr.splitlines()) == 1
        assert {path.name for path in (tmp_path / "out").iterdir()} == {LOCK}
    run(command, photos / "flat.png", *options)
    assert not {LOCK, calls.UNFINISHED} & {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("call", [tokcodec.evaluate, tokcodec.page])
@pytest.mark.parametrize("below", [".", "sub/report"])
def test_an_output_in_a_source_is_refused(photos, tmp_path, call, below):
    source, link = tmp_path / "source", tmp_path / "link"
    shutil.copytree(photos, source)
    link.symlink_to(source)
    for output in (source / below, link / below):
        with pytest.raises(OutputError):
            call([str(source)], output)
        with pytest.raises(OutputError):
            call(source, str(output))
    assert len(list(source.iterdir())) == 3


def test_threads_change_no_figure(evaluated, photos, tiny):
    report, _ = evaluated
    assert report == tokcodec.evaluate(
        [str(photos)],
        weights=[str(tiny)],
        baselines=("jpeg", "webp", "thumbhash"),
        bytes=LIMITS,
        max_edge=EDGE,
        device="cpu",
        workers=2,
    )


def test_rates_in_tokens_give_baselines_the_bytes_of_each_file(photos, tiny, tmp_path):
    report = tokcodec.evaluate(
        [str(photos)],
        tmp_path,
        weights=[str(tiny)],
        baselines=("webp",),
        tokens=(64, 400),
        max_edge=EDGE,
        device="cpu",
    )
    assert [(row.max_bytes, row.max_tokens) for row in report.rows] == [(None, 64), (None, 400)]
    assert all(0 < row.tokens <= row.max_tokens for row in report.rows)
    with (tmp_path / "images.csv").open() as file:
        lines = list(csv.DictReader(file))
    own = {
        (line["image"], line["max_tokens"]): int(line["file_bytes"])
        for line in lines
        if line["codec"] == "patch"
    }
    assert len(own) == 6
    for line in lines:
        assert int(line["file_bytes"]) <= own[line["image"], line["max_tokens"]]


@pytest.fixture
def prefix(tmp_path):
    """Writes a checkpoint that decodes prefixes of the tokens of a square of this size."""

    def write(size):
        path = tmp_path / f"prefix-{size}.safetensors"
        small_models.write(path, small_models.squares(size))
        return str(path)

    return write


def test_checkpoints_of_one_size_are_measured_at_it(prefix, photos, tiny):
    def rows(*weights, **options):
        report = tokcodec.evaluate(
            [str(photos / "chelsea.png")], weights=weights, baselines=(), device="cpu", **options
        )
        assert report.fit == "crop"
        assert {row.size for row in report.rows} == {SMALLEST_EDGE}
        return [(row.tokens, row.own.file_bytes) for row in report.rows]

    square = prefix(SMALLEST_EDGE)
    found = rows(square)
    assert [tokens for tokens, _ in found] == [16, 32, 64]
    # The shape of a row of more than 16 tokens takes two bytes.
    assert [size - found[0][1] for _, size in found] == [0, 13, 37]
    assert [tokens for tokens, _ in rows(square, tokens=(8, 64, 1000))] == [8, 64]
    # Beside one of any size, both see the square.
    assert [size <= 100 for _, size in rows(square, str(tiny), bytes=(100,))][-1]


def test_checkpoints_of_several_sizes_are_each_measured_at_their_own(
    prefix, photos, tiny, tmp_path
):
    def evaluate(*weights, output=None):
        return tokcodec.evaluate(
            [str(photos / "chelsea.png")],
            output,
            weights=weights,
            baselines=("webp",),
            bytes=(400,),
            device="cpu",
        )

    small, large = prefix(176), prefix(192)
    report = evaluate(large, str(tiny), small, output=tmp_path / "report")
    assert report.rows == (*evaluate(large, str(tiny)).rows, *evaluate(small).rows)
    assert {(row.own.codec, row.size) for row in report.rows} == {
        *(("prefix-176", 176), ("prefix-192", 192), ("patch", 192)),
    }
    assert "176x176 and 192x192" in report.shape
    webp = {row.size: row.baselines[0] for row in report.rows if row.max_tokens == 64}
    assert webp[176].psnr != webp[192].psnr
    for name, size in (("prefix-176-64-tokens", 176), ("patch-400-bytes", 192)):
        assert Image.open(tmp_path / "report" / f"sheet-{name}.jpg").width == 3 * (size + 4)
    with (tmp_path / "report" / "images.csv").open() as file:
        sizes = {(line["checkpoint"], line["size"]) for line in csv.DictReader(file)}
    assert sizes == {("prefix-176", "176"), ("prefix-192", "192"), ("patch", "192")}


def test_checkpoints_that_cannot_be_compared_are_refused(prefix, photos, tiny):
    for weights in ([prefix(64)], [str(tiny)] * 2):
        with pytest.raises(EvaluationError):
            tokcodec.evaluate([str(photos)], weights=weights, baselines=(), device="cpu")
    with pytest.raises(ArgumentError):
        tokcodec.evaluate([str(photos)], baselines=("gif",))


# Plot and table


def _mean(codec, images, file_bytes, psnr):
    whole = file_bytes is not None
    scores = {"psnr": psnr, "ssim": 0.5 if whole else None, "ms_ssim": 0.6 if whole else None}
    return {
        **{"codec": codec, "images": images, "file_bytes": file_bytes},
        **scores,
        **{"lpips": None, "rfid": None},
    }


@pytest.fixture
def figures():
    """A report of four images: ThumbHash has one file, and some others none."""
    thumbhash = _mean("thumbhash", 4, 24.0, 16.0)
    none = (_mean("avif", 0, None, None), _mean("jpeg", 0, None, None))
    webp = (_mean("webp", 1, None, None), _mean("webp", 4, 98.0, 18.5))
    rows = [
        {
            **{"checkpoint_id": "0" * 64, "size": None, "max_bytes": limit, "max_tokens": None},
            **{"tokens": tokens, "usage": 0.125, "perplexity": 1234.4, "own": own},
            **{"baselines": [thumbhash, other, *none], "best_baseline": best, "gain": gain},
        }
        for limit, own, tokens, other, best, gain in (
            (43, _mean("tokcodec", 4, 43.0, 18.0), 15.6, webp[0], "thumbhash", 2.0),
            (100, _mean("tokcodec", 4, 99.0, 20.0), 64.0, webp[1], "webp", 1.5),
        )
    ]
    return {"images": 4, "failed": 0, "rows": rows}


def test_the_table_has_a_row_for_each_codec_and_limit(figures):
    head = ["", "tokens", "limit", "bytes", "PSNR, dB", "SSIM", "MS-SSIM", "gain, dB"]
    assert table(figures) == [
        [*head, "codebook used"],
        ["tokcodec", "16", "43", "43", "18.00", "0.500", "0.600", "+2.00", "12.5%"],
        ["ThumbHash", "", "43", "24", "16.00", "0.500", "0.600", "", ""],
        ["WebP", "", "43", "fits 1 of 4", "", "", "", "", ""],
        ["AVIF, JPEG", "", "43", "no file this small", "", "", "", "", ""],
        ["tokcodec", "64", "100", "99", "20.00", "0.500", "0.600", "+1.50", "12.5%"],
        ["ThumbHash", "", "100", "24", "16.00", "0.500", "0.600", "", ""],
        ["WebP", "", "100", "98", "18.50", "0.500", "0.600", "", ""],
        ["AVIF, JPEG", "", "100", "no file this small", "", "", "", "", ""],
    ]
    figures["rows"][0]["own"]["lpips"] = 0.25
    assert table(figures)[0][7] == "LPIPS"
    assert table(figures)[1][7] == "0.250"
    figures["rows"][1]["own"]["rfid"] = 12.345
    assert table(figures)[0][8] == "rFID"
    assert table(figures)[5][7:9] == ["", "12.35"]


def test_sizes_are_told_apart(figures):
    for row, size in zip(figures["rows"], (256, 384), strict=True):
        row["size"] = size
    lines = table(figures)
    assert lines[0][:3] == ["", "tokens", "size"]
    assert [line[2] for line in lines[1:]] == ["256x256"] * 4 + ["384x384"] * 4
    drawn = ET.fromstring(plot(figures, ("psnr",)))
    labels = {label.text for label in drawn.findall(".//{*}g/{*}g/{*}text")}
    assert labels == {
        *("tokcodec 256", "tokcodec 384", "ThumbHash 256", "ThumbHash 384", "WebP 384"),
    }


def test_the_plot_has_a_labelled_line_for_each_codec(figures):
    drawn = plot(figures, ("psnr", "ms_ssim"))
    assert drawn == plot(figures, ("psnr", "ms_ssim"))
    assert b"prefers-color-scheme: dark" in drawn
    svg = "{http://www.w3.org/2000/svg}"
    panels = [
        {
            group.get("class").split()[0]: (
                len(group.findall(f"{svg}circle")),
                group.find(f"{svg}text").text,
            )
            for group in panel.findall(f"{svg}g")
        }
        for panel in ET.fromstring(drawn).findall(f"{svg}g")
    ]
    lines = {"own": (2, "tokcodec"), "webp": (1, "WebP"), "thumbhash": (1, "ThumbHash")}
    assert panels == [lines, lines]


def test_the_axis_of_a_single_point_has_short_numbers(figures):
    own = {**figures["rows"][0]["own"], "psnr": 20.40053}
    figures["rows"] = [{**figures["rows"][0], "own": own, "baselines": []}]
    panel = ET.fromstring(plot(figures, ("psnr",))).find("{*}g")
    ticks = [text.text for text in panel.findall("{*}text") if text.get("text-anchor") == "end"]
    assert ticks == ["20.4", "20.5"]


def test_labels_of_a_plot_do_not_overlap(figures):
    for other in figures["rows"][1]["baselines"][1:]:
        other.update(_mean(other["codec"], 4, 98.0, 18.5))
    drawn = ET.fromstring(plot(figures, ("psnr",)))
    labels = drawn.findall(".//{*}g/{*}g/{*}text")
    assert len(labels) == 5
    heights = sorted(float(label.get("y")) for label in labels if label.text != "ThumbHash")
    assert min(np.diff(heights)) >= 12


# LPIPS, packages, the command


def test_lpips_is_measured_if_its_network_is_there(monkeypatch, photo):
    # A stub in the place of the network, which would be downloaded.
    network = torch.nn.Module()
    network.forward = lambda a, b, normalize: (
        (a - b).abs().mean().view(1, 1, 1, 1) * (1 + normalize)
    )
    monkeypatch.setattr(metrics, "_lpips_network", lambda: network)
    metrics.require_lpips()
    original = np.asarray(photo.resize((200, 200)))
    assert score(original, 255 - original, lpips=True)["lpips"] > 0.1
    assert score(original, original, lpips=True)["lpips"] == 0


def test_lpips_that_cannot_be_measured_is_refused(photos, monkeypatch):
    def fails():
        raise ModuleNotFoundError("it requires that torchvision is installed.\nOr so.")

    monkeypatch.setattr(metrics, "_lpips_network", fails)
    with pytest.raises(EvaluationError, match="torchvision"):
        tokcodec.evaluate([str(photos)], lpips=True)


def test_missing_packages_are_named(photos, monkeypatch):
    monkeypatch.setattr(
        calls, "find_spec", lambda name: None if name == "torchmetrics" else find_spec(name)
    )
    with pytest.raises(EvaluationError, match="torchmetrics"):
        tokcodec.evaluate([str(photos)])


def test_the_command_prints_the_report(run, photos, tiny, tmp_path):
    shutil.copy(photos / "flat.png", tmp_path)
    (tmp_path / "bad.png").write_bytes(b"not an image")
    (tmp_path / "small").mkdir()
    Image.new("RGB", (300, 100)).save(tmp_path / "small" / "small.png")
    command = ("evaluate", tmp_path, "--weights", tiny, "--against", "thumbhash")
    options = ("--bytes", "100,40", "--workers", "1", "--device", "cpu")
    done = run(*command, *options, "--json", status=3)
    assert b"bad.png" in done.stderr
    assert b"small.png" in done.stderr
    report = json.loads(done.stdout)
    assert (report["images"], report["failed"]) == (1, 2)
    assert [row["max_bytes"] for row in report["rows"]] == [40, 100]
    shown = run(*command, *options, status=3).stdout.decode()
    assert "ThumbHash" in shown
    assert f"{report['rows'][0]['own']['psnr']:.2f}" in shown


@pytest.mark.parametrize(
    ("status", "options"),
    [
        (1, ["bad.png"]),
        (2, ["-"]),
        (2, ["flat.png", "--against", "webp,gif"]),
        (2, ["flat.png", "--bytes", "0"]),
        (2, ["flat.png", "--bytes", "much"]),
        (2, ["flat.png", "--bytes", "40", "--tokens", "16"]),
        (1, ["flat.png", "-o", "bad.png"]),
        (1, ["flat.png", "-o", "."]),
        (2, ["flat.png", "-o", "s3://bucket/report"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_mistakes(run, photos, tiny, tmp_path, status, options):
    shutil.copy(photos / "flat.png", tmp_path)
    (tmp_path / "bad.png").write_bytes(b"not an image")
    said = run(
        *("evaluate", *options, "--weights", tiny, "--workers", "1"), status=status, cwd=tmp_path
    )
    assert said.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"bad.png", "flat.png"}
