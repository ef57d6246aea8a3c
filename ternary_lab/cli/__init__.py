"""The command line `ternary-lab`, which parses arguments, calls the library and prints results.

For: users at a shell. Nothing is computed here. So that `--help` is fast, modules are imported inside the commands. For
the same reason, public names are used as `ternary_lab.NAME`, which imports the module of NAME at the first use.
May import: everything.
"""

from __future__ import annotations

import click

from ternary_lab.cli import notebooks, reading, repository, training
from ternary_lab.cli.options import SectionedGroup


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the version and end. A checkout that is only on PYTHONPATH has no version."""
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        known = f"version {version('ternary-lab')}"
    except PackageNotFoundError:
        known = "not installed: imported from PYTHONPATH or from this folder"
    click.echo(f"{ctx.find_root().info_name}, {known}")
    ctx.exit()


@click.group(
    cls=SectionedGroup,
    sections={
        "Train": [training.train, training.branch, training.sweep, training.recipes, training.alternatives],
        "Look at runs": [
            reading.list_names, reading.explore, reading.evaluate, reading.score, reading.compare, reading.probe,
            reading.claims,
        ],
        "Notebooks": [notebooks.run, notebooks.check_notebooks],
        "Keep and reproduce": [repository.verify, repository.import_v55, repository.reproduce],
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
              help="Show the version and exit.")
def main() -> None:
    """Train, measure and audit Ternary VAE v5.5 over all 19,683 ternary operations.

    \b
    First steps:
      ternary-lab reproduce --quick               train, plot and report in about a minute
      ternary-lab train quick                     train the small configuration
      ternary-lab train v5_5 --seeds 42 43        train v5.5 for two seeds, side by side
      ternary-lab explore runs/v5_5/seed=42       its latent space as a page for the browser
      ternary-lab evaluate runs/v5_5/seed=42      every metric of the trained model
      ternary-lab run notebooks/11_report.ipynb   execute a notebook with checked parameters
      ternary-lab sweep warmup_rho                train many settings and seeds, write one table
    """
