"""Classes of command groups and commands, and options that several commands share.

The summary of a command is the first sentence of its help. A summary has at most `SUMMARY` characters, so that
`ternary-lab --help` shows it on one line of a terminal with 80 columns.
"""

from __future__ import annotations

import errno
import itertools
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from ternary_lab.arguments import read_path, read_seeds
from ternary_lab.backend.console import steady_output
from ternary_lab.backend.devices import device_name, gpu_errors
from ternary_lab.errors import TernaryLabError
from ternary_lab.runs.interrupt import Terminated, termination_as_interrupt
from ternary_lab.sweeps.engines import ENGINES

Function = TypeVar("Function", bound=Callable[..., Any])
SUMMARY = 60
SEEDS = "--seeds"
EXHAUSTED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE)
"""Numbers of the errors of a full disk, or of too many open files. Python does not always name the file."""
STARTS_AGAIN = "the same command starts again"
RESUMES = "the last finished epoch is saved; the same command goes on from there"
_NUMBERS = re.compile(r"-?[0-9][-0-9.,]*")


class Command(click.Command):
    """A command that prints each error on one line, and whose option `--seeds` accepts several arguments.

    The exit status is 2 after such an error, and 128 + n if signal n has stopped the command. `after_stop`
    says what the same command does after a stop.
    """

    def __init__(self, *args: Any, after_stop: str = STARTS_AGAIN, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.after_stop = after_stop

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, join_seeds(args))
        except TernaryLabError as error:
            _refuse(error)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with termination_as_interrupt(), gpu_errors():
                return super().invoke(ctx)
        except TernaryLabError as error:
            _refuse(error)
        except KeyboardInterrupt as stop:
            number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
            what = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
            click.echo(f"{what}: {self.after_stop}", err=True)
            sys.exit(128 + number)
        except OSError as error:  # of a file that no command checks
            if error.filename is None and error.errno not in EXHAUSTED:
                raise
            from ternary_lab.runs.files import reason_and_remedy

            click.echo(f"error: {error.filename or 'a file'}: {reason_and_remedy(error)}", err=True)
            sys.exit(2)


def _refuse(error: TernaryLabError) -> NoReturn:
    """Print an error of a user on one line, and exit with status 2."""
    click.echo(f"error: {' '.join(str(error).split())}", err=True)
    sys.exit(2)


class SectionedGroup(click.Group):
    """A group of commands. Its help lists the commands under the titles of `sections`, in the given order."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[click.Command]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections
        for command in itertools.chain(*sections.values()):
            self.add_command(command)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with steady_output():
            return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([
                    (f"{command.name:{width}}", command.get_short_help_str(SUMMARY)) for command in commands
                ])


def join_seeds(words: Sequence[str]) -> list[str]:
    """Return the words of a command line, with all numbers after `--seeds` joined into one word.

    The words are joined because click accepts only one word after an option.
    """
    joined: list[str] = []
    for i, word in enumerate(words):
        previous = joined[-1] if joined else ""
        if word == "--":
            return [*joined, *words[i:]]
        if previous == SEEDS:
            joined[-1] = f"{SEEDS}={word}"
        elif previous.startswith(f"{SEEDS}=") and _NUMBERS.fullmatch(word):
            joined[-1] += f" {word}"
        else:
            joined.append(word)
    return joined


def _seed_list(_: click.Context, __: click.Parameter, value: str) -> list[int]:
    from ternary_lab.sweeps.design import span

    seeds: list[int] = []
    for word in value.replace(",", " ").split():
        try:
            seeds += span(word) or [int(word)]
        except ValueError:
            raise click.BadParameter(f"{word!r} is not a whole number, nor a rising span: write 42 or 42..49") from None
    return read_seeds(seeds) if value else []


def seeds_option(default: str, explanation: str) -> Callable[[Function], Function]:
    """Return the option `--seeds`. Users write 42 43 44, or 42,43,44, or 42..44, and the command gets a list of int."""
    return click.option(
        SEEDS, default=default, show_default=bool(default), callback=_seed_list, metavar="SEED...",
        help=f"{explanation} Write 42 43 44, or 42..44.",
    )


class _UserPath(click.Path):
    """Type of an option that takes a path, in which `~` and environment variables are replaced."""

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(read_path(value), parameter, ctx)


PATH = _UserPath(path_type=Path)
RUNS = click.argument("sources", nargs=-1, required=True, metavar="RUN...")
DEVICE = click.option(
    "--device", default="auto", show_default=True, callback=lambda _, __, value: device_name(value),
    help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one.",
)
ENGINE = click.option(
    "--engine", type=click.Choice(ENGINES), default="local", show_default=True,
    help="local: in this process. ray: on the cores or GPUs of a Ray cluster.",
)
ADDRESS = click.option(
    "--address", metavar="HOST:PORT",
    help="Ray cluster, or auto.  [default: the cluster on this machine, else a new one]",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
