"""RQ-VAE (arXiv 2203.01941): a VQGAN with several tokens per position, each of the last residual.

The authors order tokens position by position. tokcodec orders them depth by depth, so that the
first tokens decode to a coarser image.
"""

from tokcodec.config import ModelConfig
from tokcodec.config.quantizers import CodebookConfig, ResidualConfig
from tokcodec.errors import CheckpointError
from tokcodec.families.convolutional import Names, take_model
from tokcodec.families.family import Config, Family, Model, square_side
from tokcodec.families.reading import Array, Arrays, Section, Tensors

_CODEBOOKS = "quantizer.codebooks."
_MOST = 64  # depths
_PUBLISHED = "GitHub kakaobrain/rq-vae-transformer"


def _convert(source: Tensors, config: Config, image_size: int | None) -> tuple[ModelConfig, Arrays]:
    codebook, depths = _take_codebook(source)
    source = source.without([_CODEBOOKS])
    codebook_size, embedding_dim = codebook.shape
    stated: Config = {}
    if config:
        section = Section(config, "arch", "hparams")
        section.choice("bottleneck_type", ("rq",), "rq")
        section.require(n_embed=codebook_size, embed_dim=embedding_dim)
        stated = {"resolution": Section(config, "arch", "ddconfig").integer("resolution")}
    side = square_side(image_size, stated, field="resolution")
    halvings = max(0, source.count("encoder.down.") - 1)
    quantizer = ResidualConfig(
        stage=CodebookConfig(codebook_size=codebook_size, embedding_dim=embedding_dim),
        scales=(side >> halvings,) * depths,
    )
    ours, tensors = take_model(source, Names(), quantizer, image_size=side, resize="bilinear")
    return ours, tensors | {"quantizer.stage.codebook": codebook}


def _take_codebook(source: Tensors) -> tuple[Array, int]:
    """The codebook, which all depths share, and the number of depths."""
    depths = source.count(_CODEBOOKS)
    if depths > _MOST:
        raise CheckpointError(f"its tokens have {depths} depths, more than {_MOST}")
    first, *others = (f"{_CODEBOOKS}{depth}.weight" for depth in range(depths))
    shape = source.shape(first, 2)
    for other in others:
        if source.shape(other, 2) != shape or not source.equal(first, other):
            raise CheckpointError(f"{first} and {other} differ: all depths must share one codebook")
    return source.take(first, *shape)[:-1], depths  # the last row is not a token


FAMILY = Family(
    title="RQ-VAE",
    licence="Apache-2.0",
    recognises=lambda names, _: f"{_CODEBOOKS}0.weight" in names and "quant_conv.weight" in names,
    convert=_convert,
    models=(
        Model("rq-vae-8x8x4", 256, 16384, _PUBLISHED, verified=True, licence="CC-BY-NC-SA-4.0"),
        Model("rq-vae-8x8x4-ffhq", 256, 2048, _PUBLISHED, licence="CC-BY-NC-SA-4.0"),
    ),
)
