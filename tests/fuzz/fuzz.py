"""Fuzzing, by atheris (pip install -e '.[test-fuzz]'), of all that reads foreign bytes.

python tests/fuzz/fuzz.py                    every target for 24 seconds, as .ci/run does
python tests/fuzz/fuzz.py tar 3600           one of them for an hour

A run of every target draws the same inputs each time, so that a failure can be repeated; a run of
one target draws others.

A target says what may come of any bytes: results are checked, and only errors of one line may be
raised. Memory is limited to 512 MiB, a single input to 10 seconds. What fails is left as crash-*,
and belongs into corpus/TARGET once it is mended; with what stands there, runs begin.
"""

import binascii
import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]

GOLDEN = HERE.parent / "golden"
SEEDS = {"weights": "patch.safetensors"}
SECONDS = 24
LIMITS = ["-rss_limit_mb=512", "-timeout=10", "-max_len=65536", "-print_final_stats=1"]


def main() -> None:
    names, seconds = sys.argv[1:2] or list(TARGETS), int((sys.argv[2:3] or [SECONDS])[0])
    seed = "0" if sys.argv[1:] else "1"  # 0 is one of libFuzzer's choice
    for name in names:
        # Each in a process of its own, as fuzzing ends it.
        program = [sys.executable, __file__, "--alone", name, str(seconds), seed]
        done = subprocess.run(program, stderr=subprocess.PIPE, text=True, check=False)
        facts = dict(
            line.removeprefix("stat::").split(":")
            for line in done.stderr.splitlines()
            if line.startswith("stat::")
        )
        tries = int(facts.get("number_of_executed_units", 0))
        if done.returncode or not tries:
            sys.exit(f"{done.stderr}\n{name}: failed")
        print(f"{name}: {tries:,} tries, {int(facts['peak_rss_mb'])} MiB", flush=True)


def fuzz(name: str, seconds: int, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["tokcodec"]):
        one_input = judge(name)
    with tempfile.TemporaryDirectory() as found:
        for path in seeds(name):
            shutil.copy(path, found)
        arguments = [*LIMITS, f"-max_total_time={seconds}", f"-seed={seed}", found]
        atheris.Setup(["fuzz", *arguments], one_input)
        atheris.Fuzz()


def seeds(name: str) -> list[Path]:
    """What has failed once, and what is kept for good."""
    return [*(HERE / "corpus" / name).glob("*"), *GOLDEN.glob(SEEDS.get(name, "-"))]


def judge(name: str) -> Callable[[bytes], None]:
    """Raises where a target does with some bytes what it must not."""
    act, refusal = TARGETS[name]()

    def one_input(data: bytes) -> None:
        try:
            act(data)
        except refusal as error:
            if len(str(error).splitlines()) != 1:
                raise

    return one_input


def token_file():
    """Bytes that are no token file, such whose checksum was set again, damaged ones, and texts."""
    from test_prior import random_prior

    from tokcodec import checkpoint
    from tokcodec.errors import TokenFileError
    from tokcodec.tokenfile import TokenFile, check_tokens, is_token_file

    header, tensors = checkpoint.read(GOLDEN / "patch.safetensors")
    tensors |= random_prior(60).tensors()
    path = Path(tempfile.mkdtemp()) / "prior.safetensors"
    header = checkpoint.write(path, header.config, tensors, {})

    def read(file: TokenFile) -> None:
        tokens = file.tokens_with(header, incomplete=True)
        assert len(tokens) == file.num_tokens
        if file.damaged:
            return
        assert file.packets or tokens.min() >= 0
        check_tokens(tokens, 60)

    def act(data: bytes) -> None:
        for damaged in (False, True):
            with contextlib.suppress(TokenFileError):
                read(TokenFile.from_bytes(data, damaged=damaged))
            with contextlib.suppress(TokenFileError):
                for found in TokenFile.find(data, damaged=damaged):
                    if isinstance(found, TokenFileError):
                        raise found
                    read(found)
        for whole in (data, data + binascii.crc_hqx(data, 0xFFFF).to_bytes(2, "little")):
            with contextlib.suppress(TokenFileError) if whole is data else contextlib.nullcontext():
                file = TokenFile.from_bytes(whole)
                assert not is_token_file(whole) or file.to_bytes() == whole
                read(file)

    return act, TokenFileError


def config():
    """Texts that are no config."""
    from tokcodec.config import ModelConfig
    from tokcodec.errors import ConfigError

    def act(data: bytes) -> None:
        found = ModelConfig.from_json(data.decode("utf-8", "replace"))
        assert ModelConfig.from_json(found.to_json()) == found

    return act, ConfigError


def weights():
    """Files that are no checkpoint, of tokcodec's layout or another."""
    import torch

    from tokcodec import checkpoint
    from tokcodec.errors import TokcodecError
    from tokcodec.model.loading import load

    folder = Path(tempfile.mkdtemp())

    def act(data: bytes) -> None:
        path = folder / "a.safetensors"
        path.write_bytes(data)
        load(checkpoint.find(str(path)), torch.device("cpu"))

    return act, TokcodecError


def torch_file():
    """Pickles of torch.save around a storage of 64 bytes: what is read are arrays of numbers."""
    import zipfile

    from tokcodec.errors import CheckpointError
    from tokcodec.families.source import locate

    path = Path(tempfile.mkdtemp()) / "a.pt"

    def act(data: bytes) -> None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", data)
            file.writestr("archive/data/0", bytes(64))
        with locate(str(path)).open() as tensors:
            for tensor in tensors.values():
                assert tensor.read().shape == tensor.shape

    return act, CheckpointError


def tar():
    """Files that are no tar, or damaged ones: what is read is told, or is bytes."""
    from tokcodec.io.tar import members

    def act(data: bytes) -> None:
        for member in members(io.BytesIO(data)):
            if member.problem is None and member.size < 1 << 20:
                assert len(member.read()) == member.size

    return act, OSError


def dataset():
    """Files that are no token dataset, or a damaged one."""
    from tokcodec.dataset.memory import load_tokens
    from tokcodec.dataset.reader import open_dataset, token_files
    from tokcodec.errors import DatasetError

    path = Path(tempfile.mkdtemp()) / "a.parquet"

    def act(data: bytes) -> None:
        path.write_bytes(data)
        rows = open_dataset(path)
        for _ in token_files(rows):
            pass
        assert all(tokens.max(initial=0) < 60 for tokens in rows.tokens())
        tokens, columns = load_tokens(path, ("key", "label", "width", "error"))
        assert all(len(values) == len(tokens) for values in columns.values())

    return act, DatasetError


def exported():
    """Files that are no arrays of tokens, or damaged ones: of the format that the first byte says,
    and up to an empty line of the second, metadata and a line of an index."""
    from tokcodec import checkpoint
    from tokcodec.dataset.exported import open_tokens
    from tokcodec.dataset.formats import FORMATS
    from tokcodec.errors import DatasetError
    from tokcodec.tokenfile import TokenFile

    header = checkpoint.find(str(GOLDEN / "patch.safetensors"))
    folder = Path(tempfile.mkdtemp())
    suffixes = [each.suffix for each in FORMATS.values() if each.read]

    def act(data: bytes) -> None:
        meta, _, rest = data[1:].partition(b"\n")
        index, _, rest = rest.partition(b"\n")
        path = folder / ("a" + suffixes[data[0] % len(suffixes)]) if data else folder / "a.npy"
        path.write_bytes(rest)
        for name, text in (("meta.json", meta), ("index.jsonl", index)):
            beside = path.with_name(f"{path.name}.{name}")
            beside.write_bytes(text) if text else beside.unlink(missing_ok=True)
        for _, file in open_tokens(str(path), header).token_files():
            if isinstance(file, TokenFile):
                assert 0 <= file.tokens.min() <= file.tokens.max() < 60

    return act, DatasetError


def image_header():
    """Files that are no image, or have a hostile header: an image is opened, and not decoded."""
    from tokcodec.errors import ImageError
    from tokcodec.io.imagefile import image_errors, open_image

    def act(data: bytes) -> None:
        with image_errors("a"), open_image(data) as image:
            assert min(image.size) > 0

    return act, ImageError


def prior():
    """Payloads that no prior gave: of its shape are the first two bytes."""
    from test_prior import random_prior

    from tokcodec.errors import TokenFileError

    made = random_prior(100)

    def act(data: bytes) -> None:
        shape = (1, 1 + data[0] % 8, 1 + data[1] % 8) if len(data) > 2 else (1, 1, 1)
        tokens = made.decode(data[2:], shape)
        assert tokens.shape == shape
        assert 0 <= tokens.min() <= tokens.max() < 100
        assert made.decode(made.encode(tokens), shape).tolist() == tokens.tolist()

    return act, TokenFileError


TARGETS = {
    target.__name__: target
    for target in (
        token_file,
        config,
        weights,
        torch_file,
        tar,
        dataset,
        exported,
        image_header,
        prior,
    )
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        fuzz(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main()
