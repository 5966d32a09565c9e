"""A summary of a checkpoint."""

from typing import Any

from tokcodec.checkpoint.format import Header
from tokcodec.coding.bitpack import packed_size


def describe(header: Header) -> dict[str, Any]:
    """The facts that help to choose a checkpoint, as plain data."""
    config = header.config
    prior = header.provenance.get("prior")
    entropy_coded = prior.get("held_out_payload_bytes") if isinstance(prior, dict) else None
    return {
        "name": header.name,
        "path": str(header.path),
        "encoder": config.encoder.kind,
        "image_size": config.preprocessing.image_size,
        "num_tokens": config.num_tokens,
        "codebook_size": config.quantizer.codebook_size,
        "bits_per_token": config.quantizer.bits,
        "payload_bytes": packed_size(config.num_tokens, config.quantizer.bits),
        "weights_bytes": header.path.stat().st_size,
        "default_fit": config.default_fit,
        "held_out_entropy_coded_bytes": entropy_coded,
        "held_out_images": header.provenance.get("held_out_images"),
        "held_out_psnr": header.provenance.get("held_out_psnr"),
        "model_id": header.model_id,
        "checkpoint_id": header.checkpoint_id,
        "prior_id": header.prior_id,
    }
