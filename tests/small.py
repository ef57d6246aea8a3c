"""A configuration whose epochs take hundredths of a second, and a small notebook."""

from __future__ import annotations

from pathlib import Path

from ternary_lab import load_config

SMALL = load_config("v5_5", {
    "name": "small",
    "model": {"latent_dim": 4, "encoder_hidden": [16], "decoder_A_hidden": [16], "decoder_B_hidden": 16},
    "data": {"batch_size": 128, "train_fraction": 0.02, "validation_fraction": 0.01},
    "evaluation": {"coverage_samples": 100, "latents": 64},
    "training.total_epochs": 3,
    "checkpoints": {"every": 2, "windows": []},
})


def write_book(folder: Path) -> Path:
    """Write book.ipynb, a notebook that prints its parameters, and return its path."""
    import nbformat  # imported here, because the tests of the core run without nbformat

    cells = [
        nbformat.v4.new_markdown_cell("# A book"),
        nbformat.v4.new_code_cell(
            "seed = 1         # of the run [0, 9]\nconfig = \"quick\" # to train\nsizes = [1, 2]   # of something",
            metadata={"tags": ["parameters"]},
        ),
        nbformat.v4.new_code_cell("assert seed != 3\nprint(seed, config, sizes)"),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    path = folder / "book.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path
