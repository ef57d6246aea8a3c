"""A configuration whose epochs take hundredths of a second, for tests of what happens around training."""

from __future__ import annotations

from ternary_lab import load_config

SMALL = load_config("v5_5", {
    "name": "small",
    "model": {"latent_dim": 4, "encoder_hidden": [16], "decoder_A_hidden": [16], "decoder_B_hidden": 16},
    "data": {"batch_size": 128, "train_fraction": 0.02, "validation_fraction": 0.01},
    "evaluation": {"coverage_samples": 100, "latents": 64},
    "training.total_epochs": 3,
    "checkpoints": {"every": 2, "windows": []},
})
