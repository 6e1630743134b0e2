"""The command line: a command parses its words, calls one function, prints. Data goes to stdout, talk to stderr.

Exit codes: 0 done; 1 a step failed; 2 usage or configuration; 3 a claim not reproduced, or an artifact that does not
verify; 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import click

COMMANDS = {
    "list": ("planning", "The experiments there are."),
    "plan": ("planning", "The stages of experiments: what is shared, done, to run, and why."),
    "why": ("planning", "Why a stage or an experiment would run: the fields that changed."),
    "status": ("status", "What runs where, how far it is, what failed, and the command that reruns it."),
    "fetch": ("stages", "Download the data sets, verified."),
    "prepare": ("stages", "Split and store the data sets."),
    "pretrain": ("stages", "Train layers greedily, without labels."),
    "finetune": ("stages", "Train the whole network on a task."),
    "evaluate": ("stages", "Measure trained networks."),
    "plot": ("stages", "Draw the figures."),
    "report": ("stages", "Write the report from metrics and figures."),
    "sample": ("sample", "Draw what a trained model takes for data."),
    "pack": ("moving", "Put artifacts into one file, for another machine."),
    "unpack": ("moving", "Take the artifacts out of such a file, verified."),
    "check": ("inspecting", "Judge the claims; exit code 3 if one is not reproduced."),
    "show": ("inspecting", "An artifact: what made it, what is in it."),
    "verify": ("inspecting", "Read every byte of the artifacts; exit code 3 if one is damaged."),
    "doctor": ("doctor", "Whether this machine, and its SLURM cluster, can run dlpipe; what to do where not."),
    "schema": ("inspecting", "The JSON schema of experiment files."),
}
"""Name to its module in `dlpipe.commands` and its help. A command is imported when called: `--help` stays quick."""

_SPACE = "free some space and run the same command again"
ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EROFS: "make it writable, or name other folders with --data and --results",
}

OK, FAILED, USAGE, NOT_REPRODUCED, INTERRUPTED = 0, 1, 2, 3, 130


class LazyGroup(click.Group):
    """Knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        return getattr(importlib.import_module(f"dlpipe.commands.{module}"), f"{cmd_name}_command")

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if close:
                raise click.UsageError(f"{error.message} Did you mean '{close[0]}'?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dlpipe", message="dlpipe %(version)s")
def command_line() -> None:
    """Does a deep-learning paper's claim hold? Declare the experiment, run it, read the verdict.

    \b
      dlpipe list                        the experiments there are
      dlpipe plan depth                  what would run
      snakemake --cores all              run everything, write the report
    """


def main() -> None:
    """The `dlpipe` program."""
    code = run(command_line)
    if (
        "torch" in sys.modules
    ):  # its teardown takes 0.3 s, a fifth of a short stage, and frees what the system frees anyway
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(command: Callable[..., Any], arguments: list[str] | None = None) -> int:
    """Calls a click command and turns every expected failure into its message and exit code."""
    from dlpipe.errors import StepError
    from dlpipe.spec.problems import SpecError

    try:
        result = command.main(args=arguments, prog_name="dlpipe", standalone_mode=False)  # type: ignore[attr-defined]
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except KeyboardInterrupt:
        click.echo("interrupted; the same command goes on where it stopped", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return USAGE
    except SpecError as error:
        click.echo(str(error), err=True)
        return USAGE
    except StepError as error:
        click.echo(f"dlpipe: {error}", err=True)
        return getattr(error, "exit_code", FAILED)
    except OSError as error:
        advice = ADVICE.get(error.errno or 0)
        click.echo(f"dlpipe: {error}{f'; {advice}' if advice else ''}", err=True)
        return FAILED
    return result if isinstance(result, int) else OK
