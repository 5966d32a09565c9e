"""Families of other packages: the example in families/README.md, installed, and broken ones."""

import re
import sys
import tomllib

import pytest
import torch
from conftest import PHOTOS, TESTS
from PIL import Image
from published import draw, vqgan_shapes

from tokcodec import Codec
from tokcodec.errors import CheckpointError
from tokcodec.families import known, recognise

GUIDE = (TESTS.parent / "tokcodec" / "families" / "README.md").read_text()
(EXAMPLE,) = re.findall(r'```python\n(""".*?)```', GUIDE, re.DOTALL)
(PROJECT,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
((GROUP, POINTS),) = tomllib.loads(PROJECT)["project"]["entry-points"].items()
((POINT, OBJECT),) = POINTS.items()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs the code as a package with the entry point of the example, under another module
    name each time, as imported modules stay."""

    def install(code):
        module = OBJECT.split(":")[0] + f"_{abs(hash(code)):x}"
        site = tmp_path / "site"
        metadata = site / "my_vqgan-1.0.dist-info"
        metadata.mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-vqgan\nVersion: 1.0\n")
        value = OBJECT.replace(POINT, module)
        (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{POINT} = {value}\n")
        monkeypatch.syspath_prepend(site)
        return module

    return install


@pytest.fixture
def theirs(tmp_path):
    """A checkpoint of the example program."""
    renamed = {
        "quantize.embedding": "codes",
        "quant_conv": "to_codes",
        "post_quant_conv": "from_codes",
    }
    weights = {}
    for name, shape in vqgan_shapes(32, (1, 2, 2), 1, 8, (64, 4), (2,)).items():
        owner, _, leaf = name.rpartition(".")
        weights[f"{renamed.get(owner, owner)}.{leaf}"] = torch.from_numpy(
            draw(name, shape, 1, True)
        )
    torch.save(weights, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def test_the_example_of_the_guide(install, theirs, run, tmp_path):
    assert "my-vqgan-f16" not in known()
    module = install(EXAMPLE)
    Codec.load("tokcodec", "cpu").compress(PHOTOS[0], tokens=4)
    assert module not in sys.modules  # nothing asked for it
    assert "my-vqgan-f16" in run("models", "--known").stdout.decode()
    family, _ = known()["my-vqgan-f16"]
    assert known()["my-vqgan-f16"][0] is family
    options = ("--family", "my-vqgan-f16", "--image-size", "64")
    run("convert", theirs, "-o", tmp_path / "ours.safetensors", *options)
    weights = ("--weights", theirs)
    run("encode", PHOTOS[0], *weights, "--tokens", "64", "-o", tmp_path / "a.tok")
    run("decode", tmp_path / "a.tok", *weights, "-o", tmp_path / "a.png", "--size", "32")
    assert Image.open(tmp_path / "a.png").size == (32, 32)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("NAMES = ", "import no_such_module\nNAMES = "), "ModuleNotFoundError: No module named"),
        (("FAMILY = Family", "FAMILY = dict"), "FAMILY is not a tokcodec.families.Family"),
        (("FAMILY = Family", "OTHER = Family"), "AttributeError: module"),
        (('    return {"codes', '    return config["x"] or {"codes'), "TypeError: 'NoneType'"),
        (("    codebook = ", "    1 / 0\n    codebook = "), "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_package_is_named_in_one_line(change, reason, install, theirs, run):
    assert change[0] in EXAMPLE
    install(EXAMPLE.replace(*change))
    output = ("-o", theirs.parent / "ours.safetensors")
    said = run("convert", theirs, *output, status=1).stderr.decode()
    assert said.startswith("tokcodec: my-vqgan: its family my_vqgan fails (")
    assert reason in said
    assert said.count("\n") == 1
    # What is tokcodec's own needs none of it.
    run("encode", PHOTOS[0], "--tokens", "4", "-o", theirs.parent / "b.tok")


def test_errors_of_a_family_stay_what_they_are(install):
    refusing = EXAMPLE.replace(
        '    return {"codes',
        '    from tokcodec.errors import CheckpointError\n    if "x" in names:\n'
        '        raise CheckpointError("its codes are continuous")\n    return {"codes',
    )
    install(refusing)
    with pytest.raises(CheckpointError, match=r"^its codes are continuous$"):
        recognise(["x"], None)
