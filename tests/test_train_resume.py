"""A stopped run continues to the same weights; what a run leaves in its folder."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from training import (
    LATENT,
    PATCH,
    PREFIXES,
    RECIPE,
    make_crops,
    make_images,
    train,
    with_decoder,
)

import tokcodec
from tokcodec import checkpoint
from tokcodec.errors import DatasetError, OutputError, TrainingError
from tokcodec.io.lock import locked
from tokcodec.train.folder import RunFolder
from tokcodec.train.loop import deterministic

TIMED = ("seconds", "tokens_per_second", "utilization")


@pytest.fixture(scope="module")
def images():
    return make_images(60)


class Killed(BaseException):
    pass


def log(folder):
    """The log without what depends on the clock."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").open()]
    for entry in entries:
        assert all(entry.pop(name) > 0 for name in TIMED)
    return entries


@pytest.mark.parametrize(
    ("config", "settings"),
    [(PATCH, {"rate_weight": 1e-3, "deblocking": 0.1}), (PREFIXES, {})],
    ids=["patch", "prefixes"],
)
def test_a_killed_run_ends_in_the_same_weights(images, tmp_path, config, settings):
    recipe = dataclasses.replace(RECIPE, steps=6, **settings)
    whole = train(config, recipe, images, tmp_path / "whole")

    def kill(report):
        if report.step == 4:
            raise Killed

    with pytest.raises(Killed):
        train(config, recipe, images, tmp_path / "killed", report=kill)
    resumed = train(config, recipe, images, tmp_path / "killed")
    assert resumed.checkpoint_id == whole.checkpoint_id
    assert resumed.provenance == whole.provenance
    sheets = [(tmp_path / name / "sheet.jpg").read_bytes() for name in ("whole", "killed")]
    assert sheets[0] == sheets[1]
    entries = log(tmp_path / "whole")
    assert entries == log(tmp_path / "killed")
    assert [entry["step"] for entry in entries] == [2, 4, 6]
    assert entries[-1]["psnr"] == whole.provenance["held_out_psnr"]
    assert {"mse", "commitment"} <= entries[0]["terms"].keys()
    assert entries[0]["learning_rate"] == pytest.approx(recipe.rate(1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_the_step_and_saves_it(images, tmp_path, number):
    recipe = dataclasses.replace(RECIPE, steps=6, report_every=6)
    whole = train(PATCH, recipe, images, tmp_path / "whole")
    before = signal.signal(number, signal.default_int_handler)
    drawn = []

    class Interrupting(type(images.train)):
        """Training images; reading them for the fourth batch interrupts the process."""

        def __getitem__(self, key):
            drawn.append(key)
            if len(drawn) == 5:
                os.kill(os.getpid(), number)
            return super().__getitem__(key)

    watched = dataclasses.replace(images, train=images.train.view(Interrupting))
    try:
        with pytest.raises(KeyboardInterrupt):
            train(PATCH, recipe, watched, tmp_path / "stopped")
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert 0 < RunFolder(tmp_path / "stopped").begun().step < 6
    resumed = train(PATCH, recipe, images, tmp_path / "stopped")
    assert resumed.checkpoint_id == whole.checkpoint_id
    assert log(tmp_path / "stopped") == log(tmp_path / "whole")


def test_a_decoder_learns_from_a_discriminator_and_resumes(images, tmp_path):
    base = train(PATCH, RECIPE, images, tmp_path / "base")
    recipe = dataclasses.replace(RECIPE, adversarial=0.1)
    alone = {"source": base, "tokens_stay": True}
    whole = train(PATCH, recipe, images, tmp_path / "whole", **alone)

    def kill(_):
        raise Killed

    with pytest.raises(Killed):
        train(PATCH, recipe, images, tmp_path / "killed", report=kill, **alone)
    resumed = train(PATCH, recipe, images, tmp_path / "killed", **alone)
    assert resumed.checkpoint_id == whole.checkpoint_id
    assert whole.model_id == base.model_id
    assert log(tmp_path / "whole")[0]["terms"].keys() == {"mse", "adversarial", "discriminator"}
    plain = train(PATCH, RECIPE, images, tmp_path / "plain", **alone)
    assert plain.checkpoint_id != whole.checkpoint_id
    with pytest.raises(TrainingError):
        train(PATCH, recipe, images, tmp_path / "all")


def test_other_settings_are_refused_and_named(images, tmp_path):
    train(PATCH, RECIPE, images, tmp_path)
    larger = with_decoder(PATCH, layers=2, pixel_overlap=1)
    for other, said in (
        ((larger, RECIPE, images), ("decoder.layers 1, not 2", "decoder.pixel_overlap")),
        ((PATCH, dataclasses.replace(RECIPE, seed=1), images), ("seed 0, not 1",)),
        ((PATCH, RECIPE, dataclasses.replace(images, fingerprint="0")), ("the images",)),
    ):
        with pytest.raises(TrainingError) as error:
            train(*other, tmp_path)
        assert all(words in str(error.value) for words in said)


@pytest.mark.parametrize("state", [b"", b"junk", b"PK\3\4", [], {"settings": "[]", "step": 1}])
def test_a_damaged_state_is_named(tmp_path, state):
    folder = RunFolder(tmp_path)
    if isinstance(state, bytes):
        folder.state.write_bytes(state)
    else:
        torch.save(state, folder.state)
    with pytest.raises(TrainingError) as error:
        folder.begun()
    assert error.value.name == str(folder.state)


def test_a_folder_is_of_one_process(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tokcodec.io.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout.readline() == b"locked\n"
    with pytest.raises(OutputError):
        tokcodec.train([], tmp_path / "run", steps=1)
    other.communicate(b"\n")
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_run_that_was_not_begun_leaves_nothing(tmp_path, there):
    output = tmp_path / "run"
    if there:
        output.mkdir()
    with pytest.raises(DatasetError):
        tokcodec.train(tmp_path / "missing", output, steps=1)
    assert list(tmp_path.rglob("*")) == [output] * there


@pytest.mark.parametrize("kind", [PATCH, LATENT], ids=["patch", "latent"])
def test_training_helps(images, tmp_path, kind):
    reports = []
    recipe = dataclasses.replace(RECIPE, steps=150, tokens=256, report_every=75, warmup=5)
    header = train(kind, recipe, images, tmp_path, report=reports.append)
    facts = header.provenance
    assert facts["held_out_psnr"] == reports[-1].psnr
    assert facts["held_out_psnr"].keys() == facts["held_out_psnr_at_start"].keys()
    assert set(facts["held_out_psnr"]) == ({"16", "64", "256"} if kind is PATCH else {"8"})
    assert facts["recipe"] == dataclasses.asdict(recipe)
    gains = [
        value - facts["held_out_psnr_at_start"][count]
        for count, value in facts["held_out_psnr"].items()
    ]
    assert max(gains) > 0.1
    assert reports[1].usage > 0.1
    assert RunFolder(tmp_path).last_report() == reports[-1]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_stopped_run_on_cuda_resumes(images, tmp_path):
    device = torch.device("cuda")
    with deterministic(True):
        whole = train(PATCH, RECIPE, images, tmp_path / "whole", device=device)

        def kill(_):
            raise Killed

        with pytest.raises(Killed):
            train(PATCH, RECIPE, images, tmp_path / "killed", device=device, report=kill)
        resumed = train(PATCH, RECIPE, images, tmp_path / "killed", device=device)
    assert resumed.checkpoint_id == whole.checkpoint_id


def test_a_killed_process_can_be_repeated(tmp_path):
    """Killed without a chance to clean up, by the command line."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, crop in enumerate(make_crops(12, 32, 32)):
        crop.save(photos / f"{number}.png")
    (tmp_path / "model.json").write_text(PATCH.to_json())

    def command(output):
        return [
            *(sys.executable, "-m", "tokcodec", "train", photos, "-o", tmp_path / output),
            *("--model", tmp_path / "model.json", "--steps", "6", "--report-every", "2"),
            *("--batch-tokens", "64", "--device", "cpu", "--dtype", "float32"),
        ]

    whole = tokcodec.train(
        photos,
        tmp_path / "whole",
        model=tmp_path / "model.json",
        steps=6,
        report_every=2,
        batch_tokens=64,
        device="cpu",
        dtype="float32",
    )
    process = subprocess.Popen(command("killed"), stderr=subprocess.PIPE, start_new_session=True)
    for line in process.stderr:
        if b"held-out PSNR" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run(command("killed"), capture_output=True, check=True)
    path = tmp_path / "killed" / "model.safetensors"
    assert done.stdout.decode() == f"{path}\n"
    ids = {checkpoint.read_header(p).checkpoint_id for p in (path, whole.checkpoint)}
    assert len(ids) == 1
