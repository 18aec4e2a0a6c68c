"""argv and make variables to a request; the one handler of errors; exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from kiln import __version__
from kiln.cli.board import device, flash, monitor
from kiln.cli.options import (
    Command,
    common_options,
    default_paths,
    option,
    request_options,
    requests_of,
)
from kiln.errors import Interrupted, KilnError, ModelError, RequestError
from kiln.plan.request import Flags, load_request


def bundle_argument(command: Command) -> Command:
    """An argument that the make variable BUNDLE may give."""
    path = click.Path(path_type=Path)
    return click.argument("bundle", type=path, envvar="KILN_BUNDLE")(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kiln")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.option("-v", "--verbose", is_flag=True, envvar="KILN_VERBOSE", help="Show the steps' logs.")
@click.pass_context
def kiln(context: click.Context, debug: bool, verbose: bool) -> None:
    """From a data set to the model file that a small board runs.

    Settings come from built-in defaults, then kiln.toml, then flags.
    """
    context.obj = {"debug": debug, "verbose": verbose}


for command in (flash, device, monitor):
    kiln.add_command(command)


@kiln.command()
@request_options
@click.option("--json", "as_json", is_flag=True, help="Print build.json to stdout.")
@click.pass_context
def build(context: click.Context, /, as_json: bool, config: Path | None, **flags: Any) -> None:
    """Make the model for a target, running only what is not made yet."""
    from kiln.cli.commands import build_targets

    verbose = context.obj["verbose"]
    build_targets(requests_of(config, flags), default_paths(), as_json=as_json, verbose=verbose)


@kiln.command()
@request_options
@click.option("--json", "as_json", is_flag=True, help="Print a list of steps as JSON.")
def explain(as_json: bool, config: Path | None, **flags: Any) -> None:
    """Say for each step whether it would run, and why. Runs nothing."""
    from kiln.cli.commands import explain_targets

    explain_targets(requests_of(config, flags), default_paths(), as_json=as_json)


@kiln.command()
@request_options
@option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Sign with this Ed25519 private key, PEM or OpenSSH.",
)
def release(key: Path | None, config: Path | None, **flags: Any) -> None:
    """Build, then write one archive that says how it was made and can be made again."""
    from kiln.cli.commands import release_targets

    release_targets(requests_of(config, flags), default_paths(), key_file=key)


@kiln.command()
@bundle_argument
@option("--data", metavar="PATH", help="The data set that it was made from, if it was yours.")
@option("--weights", metavar="FILE", help="The weights that it was made from, if they were yours.")
@option("--executor", type=click.Choice(["auto", "docker", "local"]), help="Where steps run.")
@option(
    "--public-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Accept no other signature than one by this key.",
)
@option("--trust-bundle/--no-trust-bundle", help="Run its code, whoever made it.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def verify(
    bundle: Path,
    public_key: Path | None,
    trust_bundle: bool | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Check a release's signature and sums, build it again, and compare every file.

    Ends with 15 if it is damaged or by somebody else, with 16 if a file is not the same again.
    """
    from kiln.cli.commands import verify_release

    verify_release(
        bundle,
        load_request(Flags(**flags), None, Path.cwd()),
        default_paths(),
        public_key=public_key,
        trusted=bool(trust_bundle),
        as_json=as_json,
    )


@kiln.command()
@click.argument("build", required=False, type=click.Path(exists=True, path_type=Path))
@request_options
@click.option("--open/--no-open", "show", default=True, help="Open it in a browser.")
def report(build: Path | None, show: bool, config: Path | None, **flags: Any) -> None:
    """Make report.html anew from build.json, and from what a board measured; open it.

    BUILD is a result folder; without it, that of the build which the settings ask for.
    """
    from kiln.cli.commands import show_report

    for request in requests_of(config, flags):
        show_report(build, request, default_paths(), show=show)


@kiln.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@common_options
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def inspect(file: Path, as_json: bool, config: Path | None, **flags: Any) -> None:
    """Say what any TFLite FILE is, and whether the board would take it.

    With --data its accuracy is measured too. Ends with 13 if the firmware would refuse it.
    """
    from kiln.cli.commands import inspect_file

    found = [
        inspect_file(file, request, default_paths(), as_json=as_json)
        for request in requests_of(config, flags)
    ]
    if not all(found):
        sys.exit(ModelError.exit_code)


@kiln.command()
@click.argument("left", type=click.Path(path_type=Path))
@click.argument("right", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print both and their differences as JSON.")
def compare(left: Path, right: Path, as_json: bool) -> None:
    """Put two builds, given by their result folders, side by side."""
    from kiln.cli.commands import compare_builds

    compare_builds(left, right, as_json=as_json)


@kiln.command()
@click.option("--json", "as_json", is_flag=True, help="Print the whole records as JSON.")
def targets(as_json: bool) -> None:
    """List the boards."""
    from kiln.cli.commands import list_targets

    list_targets(default_paths(), as_json=as_json)


@kiln.command()
@click.option("--deep", is_flag=True, help="Read all that the store holds, not a sample.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(deep: bool, as_json: bool) -> None:
    """Check the host: engine, Python, GPU, disk, network, store; say what to do."""
    from kiln.cli.commands import examine

    if not examine(default_paths(), deep=deep, as_json=as_json):
        sys.exit(1)


@kiln.command()
@option("--registry", metavar="PREFIX", help="Pull images from here, if they are there.")
def images(registry: str | None) -> None:
    """Make the stage images of the docker executor now."""
    from kiln.cli.commands import make_images

    make_images(default_paths(), registry)


@kiln.command()
@click.option("--store", is_flag=True, help="Also every finished step: builds start from nothing.")
@click.option("--environments", is_flag=True, help="Also stage environments and images.")
def clean(store: bool, environments: bool) -> None:
    """Remove unfinished work, logs, volumes; results under build/ stay."""
    from kiln.cli.commands import clean_up

    clean_up(default_paths(), store=store, environments=environments)


@kiln.command()
@click.option("--older", metavar="AGE", default="7d", help="Unused for so long: 30d, 12h; 7d.")
@click.option("--keep", metavar="SIZE", help="Then those used longest ago, down to 5GiB, 500M.")
@click.option("--force", is_flag=True, help="Also steps that recorded builds are made of.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def gc(older: str, keep: str | None, force: bool, dry_run: bool) -> None:
    """Remove finished steps, environments and images that no recorded build needs."""
    from kiln.cli.commands import collect_garbage

    collect_garbage(default_paths(), older=older, keep=keep, force=force, dry_run=dry_run)


def main() -> NoReturn:
    """Run the command line; every failure is one message and an exit code of its own."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Under nohup a closed terminal is none of our business.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        kiln(standalone_mode=False)
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
