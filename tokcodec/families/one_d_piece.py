"""One-D-Piece (arXiv 2501.10064): TiTok's first layout, trained so that any prefix decodes."""

from functools import partial

from tokcodec.families import titok
from tokcodec.families.family import Family, Model


def _model(size: str, word: str, rfid: float) -> Model:
    config = titok.sizes(word, word, 256, first=True, kind="one_d_piece")
    where = f"turing-motors/One-D-Piece-{size.upper()}-256"
    return Model(
        f"one-d-piece-{size}256",
        256,
        4096,
        where,
        rfid,
        config,
        verified=size == "s",
    )


FAMILY = Family(
    title="One-D-Piece",
    licence="Apache-2.0",
    recognises=lambda names, config: titok.is_kind(names, config, "one_d_piece"),
    convert=partial(titok.convert, prefix_tokens=True),
    models=(_model("s", "small", 1.48), _model("b", "base", 1.11), _model("l", "large", 1.08)),
    needs_config=True,
)
