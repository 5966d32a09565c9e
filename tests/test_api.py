"""What Python code and notebooks get: names, what objects say of themselves, what calls take."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import COMMAND, PHOTOS, results
from PIL import Image

import tokcodec
from tokcodec import Codec, TokenDataset, load_tokens
from tokcodec.dataset.reader import open_dataset
from tokcodec.errors import DatasetError, OutputError, TokenFileError


@pytest.fixture(scope="module")
def codec(tiny):
    return Codec.load(str(tiny), device="cpu", batch_size=4)


def test_dir_shows_the_public_names_and_loads_none_of_them():
    assert dir(tokcodec) == sorted(tokcodec.__all__)
    program = (
        "import sys, tokcodec; dir(tokcodec); print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"


def test_objects_say_what_they_are_in_a_line(codec, tmp_path, run):
    own = codec.header.model_id[:8]
    assert repr(codec) == "<Codec patch: 16 tokens of 6 bits for 32x32 pixels, float32 on cpu>"
    token_file = codec.compress(PHOTOS[1], fit="tile")
    assert repr(token_file) == (
        f"<TokenFile 451x300, tile: 4x4 tokens of 6 bits in 10x15 tiles, "
        f"{len(token_file.to_bytes()):,} bytes, model {own[:4]}>"
    )
    entropy_coded = Codec.load("tokcodec", device="cpu", batch_size=1).compress(PHOTOS[1])
    assert " tokens of 13 bits, entropy-coded, " in repr(entropy_coded)
    pytest.importorskip("pyarrow")
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "photos" / label / "0.png")
    run("tokenize", tmp_path / "photos", "-o", tmp_path / "rows", "--weights", codec.header.path)
    rows = f"of 16 tokens of 6 bits, stretch, model {own}"
    folder = tmp_path / "rows"
    assert repr(open_dataset(folder)) == f"<TokenRows {folder}: 1 file, rows {rows}>"
    assert repr(TokenDataset(folder)) == f"<TokenDataset {folder}: 2 rows {rows}, 2 classes>"


def test_images_come_in_many_forms(codec, tmp_path):
    path = PHOTOS[2]
    image = Image.open(path).convert("RGB")
    pixels = np.asarray(image)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    with path.open("rb") as file:
        forms = [path, str(path), path.read_bytes(), file, image, pixels, tensor]
        token_files = results(codec.compress_stream(enumerate(forms)))
    assert token_files == token_files[:1] * len(forms)
    # One channel is grey, and of four the last is alpha.
    grey, clear = image.convert("L"), image.copy()
    clear.putalpha(grey)
    for mode in (grey, clear):
        array = np.asarray(mode)
        rows = array[..., None] if array.ndim == 2 else array
        expected = codec.compress(mode)
        forms = [array, rows, torch.from_numpy(rows.copy()).movedim(2, 0)]
        assert [codec.compress(form) for form in forms] == [expected] * 3
    token_files[0].save(tmp_path / "a.tok")
    back = codec.decompress(token_files[0])
    for form in (tmp_path / "a.tok", str(tmp_path / "a.tok"), token_files[0].to_bytes()):
        assert codec.decompress(form) == back
    with pytest.raises(TokenFileError, match=r"b\.tok: cannot read: not found"):
        codec.decompress(tmp_path / "b.tok")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"uint8 \[H, W, 3\], .* not float32 \[4, 4, 3\]"),
        (np.zeros((3, 4, 5), np.uint8), r"not uint8 \[3, 4, 5\]"),
        (np.zeros((4, 0, 3), np.uint8), r"not uint8 \[4, 0, 3\]"),
        (torch.zeros(5, 4, 3, dtype=torch.uint8), r"tensor uint8 \[3, H, W\], not \[5, 4, 3\]"),
        (torch.zeros(3, 4, 4), "not float32"),
        (None, "a path, bytes, .*, not NoneType"),
    ],
)
def test_what_is_no_image(codec, image, message):
    with pytest.raises(TypeError if image is None else ValueError, match=message):
        codec.compress(image)


def test_another_fit_is_told_which_there_are(codec):
    with pytest.raises(ValueError, match=r"one of aspect, .*, not 'squash'"):
        codec.compress(PHOTOS[0], fit="squash")


def test_pixels_beyond_0_to_1_are_refused(codec):
    some = torch.rand(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"not torch\.uint8: divide bytes by 255"):
        codec.encode((some * 255).byte())
    for wrong in (some * 255, some * 2 - 1, some / 0):
        with pytest.raises(ValueError, match=r"\[0, 1\], not from .* to .*: divide 0 to 255"):
            codec.encode(wrong)
    nearly = some.clamp(0, 1) * (1 + 1e-6)
    assert torch.equal(codec.encode(nearly.half()), codec.encode(nearly.half().float()))


def test_missing_extras_are_named(monkeypatch):
    pytest.importorskip("upath")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "s3fs", None)
        with pytest.raises(DatasetError, match=r"s3://a/b: .*s3:// 'tokcodec\[s3\]'"):
            load_tokens("s3://a/b")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "upath", None)
        with pytest.raises(OutputError, match=r"s3://a/b: .*pip install 'tokcodec\[remote\]'"):
            load_tokens("s3://a/b")
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from tokcodec import TokenDataset, TokcodecError, load_tokens\n"
        "for read in (load_tokens, TokenDataset):\n"
        "    try: read('rows')\n"
        "    except TokcodecError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    line = "token datasets need pyarrow: pip install 'tokcodec[parquet]'\n"
    assert done.stdout.decode() == 2 * line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("encode --fit ", ["aspect", "stretch", "crop", "pad", "tile", "native"]),
        ("decode --weights tokc", ["tokcodec"]),
        ("tokenize --weights ./", ["./a.pt", "./mine.safetensors", "./folder/"]),
        ("train --tokens-of mi", ["mine.safetensors"]),
        ("convert --family titok-s", ["titok-s128", "titok-sl256-vq8k"]),
    ],
)
def test_a_shell_completes_values(tmp_path, line, expected):
    for name in ("a.pt", "mine.safetensors", "notes.txt", "folder/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    program = (
        "import sys; from tokcodec.cli import main\n"
        "sys.argv = ['tokcodec']\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    asked = {
        "_TOKCODEC_COMPLETE": "complete_bash",
        "COMP_WORDS": f"tokcodec {line}",
        "COMP_CWORD": str(len(line.split(" "))),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | asked, cwd=tmp_path, capture_output=True
    )
    assert (done.stdout.decode().split(), done.stderr) == (expected, b"False\n")


def test_completion_installs_itself(tmp_path):
    home = os.environ | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    subprocess.run([COMMAND, "--install-completion", "bash"], env=home, check=True)
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert "_TOKCODEC_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


FLOATS = np.full((1, 4, 4), 0.7)
TILE = np.zeros((1, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("method", "value", "options"),
    [
        ("decode", FLOATS, {}),
        ("decode", torch.tensor(FLOATS), {}),
        ("decode", FLOATS > 0, {}),
        ("decode", torch.tensor(FLOATS) > 0, {}),
        ("decode", FLOATS.astype(object), {}),
        ("decode", np.full((1, 4, 4), 2**64 - 1, np.uint64), {}),
        ("decode", FLOATS.tolist(), {}),
        ("encode", TILE.tolist(), {}),
        ("encode", TILE.astype(np.float32), {}),
        ("encode", TILE[..., :1], {}),
        ("encode", np.concatenate([TILE, TILE[..., :1]], 3), {}),
        ("encode", torch.full((1, 3, 32, 32), 255.0), {}),
        ("encode", torch.full((1, 3, 32, 32), float("nan")), {}),
        ("encode_tiles", TILE.astype(np.float32), {}),
        ("encode_tiles", TILE[..., :1], {}),
        ("compress", TILE[0, 0, :, 0], {}),
        ("compress", torch.from_numpy(TILE[0, 0, :, 0]), {}),
        ("compress", TILE[0] / 255, {}),
        ("compress", TILE[0, ..., :2], {}),
        ("compress", TILE[0], {"background": (300, 0, 0)}),
        ("compress", TILE[0], {"background": (-1, 0, 0)}),
        ("compress", TILE[0], {"background": (0, 0)}),
        ("compress", TILE[0], {"background": "red"}),
        ("compress", TILE[0], {"tokens": 2.5}),
        ("compress", TILE[0], {"max_bytes": 0}),
        ("compress", TILE[0], {"max_bytes": 99.5}),
        ("decompress", 5, {}),
        ("decompress", "a token file", {"size": 0}),
        ("decompress", "a token file", {"size": -5}),
        ("decompress", "a token file", {"size": 2.5}),
        ("decompress", "a token file", {"size": (1,)}),
        ("decompress", "a token file", {"size": (10, 0)}),
    ],
)
def test_wrong_arguments_are_errors_and_not_wrong_results(codec, method, value, options):
    if isinstance(value, str):
        value = codec.compress(TILE[0])
    with pytest.raises((ValueError, TypeError)):
        getattr(codec, method)(value, **options)


@pytest.mark.parametrize(
    "options", [{"dtype": "float16"}, {"batch_size": 0}, {"batch_size": 2.5}, {"runtime": "jax"}]
)
def test_wrong_options_of_load(tiny, options):
    with pytest.raises((ValueError, TypeError)):
        Codec.load(str(tiny), "cpu", **options)


def test_integers_of_any_type_are_tokens(codec):
    tokens = codec.encode(TILE)
    for kind in (np.uint8, np.uint16, np.int32, np.uint64):
        assert np.array_equal(codec.decode(tokens.astype(kind)), codec.decode(tokens))
    tensor = torch.from_numpy(tokens)
    for dtype in (torch.uint8, torch.uint16, torch.int32):
        assert torch.equal(codec.decode(tensor.to(dtype)), codec.decode(tensor))
    assert codec.decompress(codec.compress(TILE[0]), size=np.int64(20)).size == (20, 20)


@pytest.mark.parametrize("tokens", [FLOATS, FLOATS > 0, FLOATS.tolist(), np.full((1, 4, 4), 60)])
def test_token_files_hold_tokens_of_the_codebook(codec, tokens):
    with pytest.raises((ValueError, TypeError)):
        tokcodec.TokenFile.of(codec.header, tokens, 32, 32, "crop")
