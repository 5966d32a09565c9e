"""IBQ (arXiv 2412.02692): a VQGAN whose tokens have the largest dot product.

Emu3.5's tokenizer is an IBQ with 256 channels.

The authors reduced images with OpenCV's bilinear filter, which does not antialias. tokcodec uses
torchvision's bicubic filter, which does.
"""

from collections.abc import Collection
from functools import partial

from tokcodec.families.family import Config, Family, Model
from tokcodec.families.taming import convert_vqgan, is_vqgan, says_ibq


def _recognises(names: Collection[str], config: Config | None) -> bool:
    return is_vqgan(names) and says_ibq(config) is not False


def _model(size: int, name: str, file: str, rfid: float, verified: bool = False) -> Model:
    return Model(
        name,
        256,
        size,
        f"TencentARC/{file}",
        rfid,
        {"model": {"class_path": "IBQ"}},
        verified,
    )


FAMILY = Family(
    title="IBQ",
    licence="Apache-2.0",
    recognises=_recognises,
    convert=partial(convert_vqgan, metric="dot"),
    models=(
        _model(1024, "ibq-1024", "IBQ-Tokenizer-1024:imagenet256_1024.ckpt", 2.24),
        _model(8192, "ibq-8192", "IBQ-Tokenizer-8192:imagenet256_8192.ckpt", 1.87, True),
        _model(16384, "ibq-16384", "IBQ-Tokenizer-16384:imagenet256_16384.ckpt", 1.37),
        _model(262144, "ibq-262144", "IBQ-Tokenizer-262144:imagenet256_262144.ckpt", 1.00),
        _model(
            16384,
            "ibq-16384-pretrain",
            "IBQ-Tokenizer-16384-Pretrain:IBQ_pretrain_16384.ckpt",
            2.06,
        ),
        _model(
            262144,
            "ibq-262144-pretrain",
            "IBQ-Tokenizer-262144-Pretrain:IBQ_pretrain_262144.ckpt",
            1.53,
        ),
        Model(
            "emu3.5",
            256,
            131072,
            "BAAI/Emu3.5-VisionTokenizer",
            config={"embed_dim": 256},
        ),
    ),
)
