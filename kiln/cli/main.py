"""The command line: its commands by name, the one handler of errors, exit codes."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import NoReturn

import click

from kiln import __version__
from kiln.errors import Interrupted, KilnError, RequestError

#: Every command in its own module of the same name, or in the one that is named, and its line in
#: the help: a module is imported when its command is asked for.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "build": ("build", "Make the model for a target, running only what is not made yet."),
    "explain": ("build", "Say for each step whether it would run, and why."),
    "report": ("report", "Make report.html again from build.json and open it."),
    "compare": ("report", "Put two builds side by side."),
    "inspect": ("inspect", "Say what a TFLite file is, and whether a board would take it."),
    "flash": ("flash", "Write a model to the flash of an attached board."),
    "monitor": ("monitor", "Show on a page what a board sees, and record it."),
    "device": ("device", "Talk to a board that runs SSCMA firmware."),
    "release": ("release", "Build, then write one archive that can be made again."),
    "verify": ("release", "Build a release again and compare every file."),
    "targets": ("targets", "List the boards."),
    "doctor": ("doctor", "Check this host and say what to do."),
    "images": ("images", "Make the stage images of the docker executor now."),
    "gc": ("gc", "Remove what no recorded build needs."),
    "clean": ("gc", "Remove unfinished work, logs and volumes."),
}


class _Commands(click.Group):
    """Commands that are imported only when they are run: start-up time is a feature."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(
            importlib.import_module(f"kiln.cli.{COMMANDS[name][0]}"), name
        )
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_module, line) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kiln")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.option("-v", "--verbose", is_flag=True, envvar="KILN_VERBOSE", help="Show the steps' logs.")
@click.pass_context
def kiln(context: click.Context, debug: bool, verbose: bool) -> None:
    """From a data set to the model file that a small board runs.

    Settings come from built-in defaults, then kiln.toml, then flags.
    """
    context.obj = {"debug": debug, "verbose": verbose}


def main() -> NoReturn:
    """Run the command line; every failure is one message and an exit code of its own."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Under nohup a closed terminal is none of our business.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        kiln(prog_name="kiln", standalone_mode=False)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        _fail(RequestError(error.format_message(), hint="kiln --help"))
    except (KeyboardInterrupt, click.Abort):
        _fail(
            Interrupted(
                "interrupted; nothing is left running",
                hint="finished steps are kept: the same command goes on from there",
            )
        )
    except KilnError as error:
        _fail(error)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        _fail(
            KilnError(
                f"Kiln itself failed: {type(error).__name__}: {error}",
                hint="run again with --debug and report what it prints",
            )
        )
    sys.exit(0)


def _fail(error: KilnError) -> NoReturn:
    from kiln.cli.console import Terminal

    if "--debug" in sys.argv:
        traceback.print_exc()
    Terminal().error(error)
    sys.exit(error.exit_code)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
