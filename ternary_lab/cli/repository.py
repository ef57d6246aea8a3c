"""Commands that keep and reproduce results: verify, import-v55 and reproduce."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ternary_lab.cli.options import AS_JSON, DEVICE, PATH, RESUMES, RUNS, Command
from ternary_lab.errors import EXTRAS, CheckpointError, RunError, need


@click.command(cls=Command)
@RUNS
@AS_JSON
def verify(sources: tuple[str, ...], as_json: bool) -> None:
    """Check the files of runs and their last epoch's metrics.

    RUN is a run, a folder that holds runs at any depth, or a published run. The command checks every file by its
    checksum, and whether the files belong together. If all files are intact, the command computes the metrics of the
    last saved epoch again. It also says what it did not check. The exit status is 1 if a file is damaged or a metric
    differs, and 2 if there is no RUN.

    \b
    Examples:
      ternary-lab verify runs/v5_5
      ternary-lab verify v5_5/seed=42 --json
    """
    from ternary_lab.runs.verify import verify_all

    found, status = [], 0
    for source in sources:
        try:
            for one in verify_all(source):
                found.append(one)
                status = status or int(not one.sound)
                if not as_json:  # after each run, because a run takes a second or two
                    click.echo(one.describe())
        except RunError as error:  # the other runs are checked all the same
            click.echo(f"error: {error}", err=True)
            status = 2
    if as_json:
        click.echo(json.dumps([one.as_dict() for one in found]))
    if status:
        sys.exit(status)


@click.command("import-v55", cls=Command)
@click.argument("file", type=PATH)
@click.argument("output", type=PATH)
def import_v55(file: Path, output: Path) -> None:
    """Convert an original v5.5 checkpoint to safetensors.

    FILE is the original .pt file, and OUTPUT is the new .safetensors file. The weights and the epoch are read, but no
    code in FILE is executed. The weights may be under the key model, model_state_dict or state_dict, or be the whole
    content of FILE.
    """
    from ternary_lab.runs import checkpoint

    if output.suffix != ".safetensors":
        raise CheckpointError(f"{output}: the name of the output must end in .safetensors")
    point = checkpoint.import_original(file)
    checkpoint.save(output, point)
    known = f"weights of epoch {point.epoch}" if point.epoch >= 0 else f"weights; {file} names no finished epoch"
    click.echo(f"{output}: {known}")


@click.command(cls=Command, after_stop=RESUMES)
@click.option("--quick", is_flag=True, help="The small configuration: the same steps in about a minute.")
@click.option("--all", "everything", is_flag=True, help="Train every published run again (some hours).")
@DEVICE
def reproduce(quick: bool, everything: bool, device: str) -> None:
    """Train v5.5, draw its figures and write the report.

    The results are written to runs/, figures/ and reports/ in the current directory.
    """
    if quick and everything:
        raise click.UsageError("--quick and --all exclude each other: leave one of them out")
    need(*EXTRAS["explorer"])  # a notebook needs them after the training; this extra includes the extra `notebooks`
    from ternary_lab.cli import reproduce as reproduction

    for line in reproduction.reproduce(quick=quick, device=device, everything=everything):
        click.echo(line)
