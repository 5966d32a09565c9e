"""``tokcodec.train`` and ``tokcodec train``: their options."""

import json

import pytest
import torch
from training import PATCH, make_crops

import tokcodec
from tokcodec import checkpoint
from tokcodec.config import ModelConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    TokcodecError,
    TrainingError,
)
from tokcodec.train import api
from tokcodec.train.presets import PRESETS

NOT_TRAINABLE = PATCH.replace(
    quantizer=CodebookConfig(codebook_size=64, embedding_dim=8, metric="dot")
)
SHORT = {"model": PATCH, "steps": 2, "batch_tokens": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, crop in enumerate(make_crops(12, 32, 32)):
        crop.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    return tokcodec.train(photos, tmp_path_factory.mktemp("trained") / "run", **SHORT)


def test_a_call_trains_and_reports(photos, tmp_path):
    seen = []
    options = {**SHORT, "steps": 4, "report_every": 2, "held_out": ["3.png", "5.png"]}
    result = tokcodec.train([photos], str(tmp_path), **options, progress=seen.append)
    assert result.checkpoint == tmp_path / "model.safetensors"
    assert result.resumed_at == 0
    assert [now.stage for now in seen if now.done == 1] == ["reading", "training"]
    assert [now.done for now in seen if now.stage == "reading"] == list(range(1, 13))
    reports = [now.report for now in seen if now.report]
    assert [report.step for report in reports] == [2, 4]
    assert result.report == reports[-1]
    facts = checkpoint.read_header(result.checkpoint).provenance
    assert (facts["training_images"], facts["held_out_images"]) == (10, 2)
    # Again, there is nothing left to do.
    seen.clear()
    again = tokcodec.train([photos], str(tmp_path), **options, progress=seen.append)
    assert again.resumed_at == 4
    assert again.report == result.report
    assert {now.stage for now in seen} == {"starting", "training"}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        *(({name: 0}, TrainingError) for name in ("steps", "batch_tokens", "report_every")),
        *(({name: -1}, TrainingError) for name in ("warmup", "seed", "learning_rate")),
        *(({name: -1.0}, TrainingError) for name in ("rate_weight", "deblocking", "spectra")),
        ({"lpips": -1.0}, TrainingError),
        ({"adversarial": 0.1}, TrainingError),
        ({"model": "big"}, TrainingError),
        ({"model": NOT_TRAINABLE}, TrainingError),
        ({"held_out": "no.txt"}, TrainingError),
        ({"from_": "no.safetensors"}, CheckpointError),
        ({"tokens_of": "no.safetensors"}, CheckpointError),
        ({"from_": "a", "tokens_of": "b"}, TrainingError),
        ({"dtype": "float16"}, TrainingError),
        ({"device": "nowhere"}, DeviceError),
        ({"workers": 0}, TrainingError),
        ({"max_image_bytes": 0}, TrainingError),
    ],
    ids=str,
)
def test_options_are_checked_before_images_are_read(tmp_path, options, error):
    with pytest.raises(error):
        tokcodec.train(tmp_path / "missing", tmp_path / "run", **{**SHORT, **options})
    assert not (tmp_path / "run").exists()


def test_a_run_resumes_in_its_own_precision(photos, tmp_path, monkeypatch):
    options = {**SHORT, "dtype": "bfloat16"}
    tokcodec.train(photos, tmp_path, **options, deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()
    # What auto would be on another machine does not matter.
    monkeypatch.setattr(api, "fastest_dtype", lambda _: "float32")
    assert tokcodec.train(photos, tmp_path, **SHORT).resumed_at == 2
    for other in ({"dtype": "float32"}, {"steps": 4}, {"seed": 3}):
        with pytest.raises(TrainingError, match=next(iter(other))):
            tokcodec.train(
                photos,
                tmp_path,
                **{**options, **other},
                progress=lambda _: pytest.fail("an image was read"),
            )


@pytest.mark.parametrize(("warmup", "expected"), [(30, 30), (None, 2)])
def test_warming_up_takes_a_tenth_unless_asked(photos, tmp_path, warmup, expected):
    steps = {"steps": 20, "report_every": 20}
    result = tokcodec.train(photos, tmp_path, **{**SHORT, **steps}, warmup=warmup)
    assert checkpoint.read_header(result.checkpoint).provenance["recipe"]["warmup"] == expected


def test_the_command_takes_the_options_of_the_call(photos, trained, tmp_path, run):
    (tmp_path / "model.json").write_text(PATCH.to_json())
    (tmp_path / "held-out.txt").write_text("1.png\n")
    done = run(
        *("train", photos, "-o", tmp_path / "run", "--model", tmp_path / "model.json"),
        *("--tokens-of", trained.checkpoint, "--steps", "2", "--batch-tokens", "64"),
        *("--held-out", tmp_path / "held-out.txt", "--spectra", "0.1", "--adversarial", "0.1"),
        *("--seed", "7", "--device", "cpu"),
    )
    path = tmp_path / "run" / "model.safetensors"
    assert done.stdout.decode() == f"{path}\n"
    assert done.stderr.count(b"held-out PSNR") == 1
    header = checkpoint.read_header(path)
    assert header.model_id == checkpoint.read_header(trained.checkpoint).model_id
    assert header.provenance["command"].startswith("tokcodec train ")
    recipe = header.provenance["recipe"]
    assert (recipe["seed"], recipe["spectra"], recipe["tokens"]) == (7, 0.1, 64)


def test_a_preset_can_be_printed(run, tmp_path):
    printed = run("train", "--print-config", "tokcodec").stdout.decode()
    assert ModelConfig.from_json(json.dumps(json.loads(printed))) == PRESETS["tokcodec"]
    run("train", "--print-config", "large", status=2)
    path = tmp_path / "model.json"
    path.write_text(printed)
    config = api.read_config(str(path))
    assert config == PRESETS["tokcodec"]
    path.write_text("{}")
    with pytest.raises(ConfigError) as error:
        api.read_config(str(path))
    assert isinstance(error.value, TokcodecError)
    assert str(path) in str(error.value)


def test_help_fits_two_screens(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = run("train", "--help").stdout.decode()
    assert len(text.splitlines()) <= 70
    assert "Example" in text
