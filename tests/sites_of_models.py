"""Sites worth a look in each model of the zoo."""

from __future__ import annotations

SITES = {
    "bert": "encoder.layer.*.output",
    "clip": ["text_model.encoder.layers.*.mlp", "vision_model.encoder.layers.*.mlp"],
    "unet": "*norm*",
    "pixart": "transformer_blocks.*.norm[12]",
}


def sites(name):
    return SITES.get(name, ["mlp_out", "attention_out", "pre_mlp_norm", "residual"])


def doubled(module, name):
    """In double precision, but for Gemma 2, which left padding then fills with nan, in transformers itself."""
    return module if name == "gemma2" else module.double()
