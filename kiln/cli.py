"""argv and make variables to a request; the one handler of errors; exit codes."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click

from kiln import __version__
from kiln.device_cli import device
from kiln.errors import Interrupted, KilnError, ModelError, RequestError
from kiln.request import BuildRequest, Flags, load_request
from kiln.workplace import Workplace

Command = TypeVar("Command", bound=Callable[..., Any])

ALL_TARGETS = "all"


def _option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """An option that a make variable of the same name may set: --imgsz and KILN_IMGSZ."""
    long = next(name for name in names if name.startswith("--"))
    variable = f"KILN_{long.split('/')[0].removeprefix('--').replace('-', '_').upper()}"
    return click.option(*names, envvar=variable, show_envvar=False, default=None, **settings)


#: What a finished file can be asked about, too.
_COMMON_OPTIONS = (
    _option("--target", metavar="NAME", help="The board; `kiln targets` lists them, `all` is all."),
    _option("--task", type=click.Choice(["pose", "detect"]), help="What the model finds."),
    _option("--data", metavar="PATH", help="data.yaml or its folder, a published name, or a URL."),
    _option("--executor", type=click.Choice(["auto", "docker", "local"]), help="Where steps run."),
    _option(
        "--resize",
        type=click.Choice(["stretch", "letterbox"]),
        help="How pictures to calibrate and to judge with become square; the board stretches.",
    ),
    _option("--registry", metavar="PREFIX", help="Pull stage images from here, if they are there."),
    _option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Settings file; ./kiln.toml is taken if it is there.",
    ),
)
_BUILD_OPTIONS = (
    _option("--weights", metavar="FILE", help="Own .pt, a published name, or `scratch`."),
    _option("--model", metavar="SIZE", help="Architecture if weights do not say: yolov8n."),
    _option("--imgsz", type=int, metavar="PIXELS", help="Side of the square input picture."),
    _option("--epochs", type=click.IntRange(min=0), help="0 takes the weights as they are."),
    _option("--batch", type=click.IntRange(min=1), help="Pictures a training batch."),
    _option("--name", metavar="NAME", help="Name of the result folder and files."),
    _option("--gpu", type=click.Choice(["none", "auto", "required"]), help="GPU for training."),
    _option(
        "--reproducible/--no-reproducible",
        help="Train to the same weights on any number of cores: on the CPU alone.",
    ),
    _option(
        "--quant",
        "granularity",
        type=click.Choice(["mixed", "per-tensor", "per-channel"]),
        help="Which int8 weights share a scale.",
    ),
    _option("--layers/--no-layers", help="Also say where along the network int8 errs most."),
    _option(
        "--trust-weights/--no-trust-weights",
        help="Open a .pt that holds more than plain tensors: that runs its code.",
    ),
    _option(
        "--force/--no-force",
        help="Keep a model that the firmware would not take, marked as not accepted.",
    ),
)


def _common_options(command: Command) -> Command:
    for option in reversed(_COMMON_OPTIONS):
        command = option(command)
    return command


def _request_options(command: Command) -> Command:
    for option in reversed(_BUILD_OPTIONS):
        command = option(command)
    return _common_options(command)


def _bundle_argument(command: Command) -> Command:
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
    context.obj = {"debug": debug, "verbose": verbose, "place": _workplace()}


kiln.add_command(device)


@kiln.command()
@_request_options
@click.option("--json", "as_json", is_flag=True, help="Print build.json to stdout.")
@click.pass_context
def build(context: click.Context, /, as_json: bool, config: Path | None, **flags: Any) -> None:
    """Make the model for a target, running only what is not made yet."""
    from kiln.commands import build_targets

    verbose = context.obj["verbose"]
    build_targets(_requests(config, flags), _workplace(), as_json=as_json, verbose=verbose)


@kiln.command()
@_request_options
@click.option("--json", "as_json", is_flag=True, help="Print a list of steps as JSON.")
def explain(as_json: bool, config: Path | None, **flags: Any) -> None:
    """Say for each step whether it would run, and why. Runs nothing."""
    from kiln.commands import explain_targets

    explain_targets(_requests(config, flags), _workplace(), as_json=as_json)


@kiln.command()
@_request_options
@_option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Sign with this Ed25519 private key, PEM or OpenSSH.",
)
def release(key: Path | None, config: Path | None, **flags: Any) -> None:
    """Build, then write one archive that says how it was made and can be made again."""
    from kiln.commands import release_targets

    release_targets(_requests(config, flags), _workplace(), key_file=key)


@kiln.command()
@_bundle_argument
@_option("--data", metavar="PATH", help="The data set that it was made from, if it was yours.")
@_option("--weights", metavar="FILE", help="The weights that it was made from, if they were yours.")
@_option("--executor", type=click.Choice(["auto", "docker", "local"]), help="Where steps run.")
@_option(
    "--public-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Accept no other signature than one by this key.",
)
@_option("--trust-bundle/--no-trust-bundle", help="Run its code, whoever made it.")
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
    from kiln.commands import verify_release

    verify_release(
        bundle,
        load_request(Flags(**flags), None, Path.cwd()),
        _workplace(),
        public_key=public_key,
        trusted=bool(trust_bundle),
        as_json=as_json,
    )


@kiln.command()
@click.argument("build", required=False, type=click.Path(exists=True, path_type=Path))
@_request_options
@click.option("--open/--no-open", "show", default=True, help="Open it in a browser.")
def report(build: Path | None, show: bool, config: Path | None, **flags: Any) -> None:
    """Make report.html anew from build.json, and from what a board measured; open it.

    BUILD is a result folder; without it, that of the build which the settings ask for.
    """
    from kiln.commands import show_report

    for request in _requests(config, flags):
        show_report(build, request, _workplace(), show=show)


@kiln.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_common_options
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def inspect(file: Path, as_json: bool, config: Path | None, **flags: Any) -> None:
    """Say what any TFLite FILE is, and whether the board would take it.

    With --data its accuracy is measured too. Ends with 13 if the firmware would refuse it.
    """
    from kiln.commands import inspect_file

    found = [
        inspect_file(file, request, _workplace(), as_json=as_json)
        for request in _requests(config, flags)
    ]
    if not all(found):
        sys.exit(ModelError.exit_code)


@kiln.command()
@click.argument("left", type=click.Path(path_type=Path))
@click.argument("right", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print both and their differences as JSON.")
def compare(left: Path, right: Path, as_json: bool) -> None:
    """Put two builds, given by their result folders, side by side."""
    from kiln.commands import compare_builds

    compare_builds(left, right, as_json=as_json)


@kiln.command()
@click.option("--json", "as_json", is_flag=True, help="Print the whole records as JSON.")
def targets(as_json: bool) -> None:
    """List the boards."""
    from kiln.commands import list_targets

    list_targets(_workplace(), as_json=as_json)


@kiln.command()
@click.option("--deep", is_flag=True, help="Read all that the store holds, not a sample.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(deep: bool, as_json: bool) -> None:
    """Check the host: engine, Python, GPU, disk, network, store; say what to do."""
    from kiln.commands import examine

    if not examine(_workplace(), deep=deep, as_json=as_json):
        sys.exit(1)


@kiln.command()
@_option("--registry", metavar="PREFIX", help="Pull images from here, if they are there.")
def images(registry: str | None) -> None:
    """Make the stage images of the docker executor now."""
    from kiln.commands import make_images

    make_images(_workplace(), registry)


@kiln.command()
@click.argument("build", required=False, type=click.Path(exists=True, path_type=Path))
@_request_options
@_option(
    "--port", metavar="PATH", help="Where the board is; found by itself if it is the only one."
)
@_option("--address", metavar="ADDRESS", help="Where in the flash, as 0x400000; the target's.")
@click.option("--prove/--no-prove", default=True, help="Then have the board show that it runs it.")
def flash(
    build: Path | None,
    port: str | None,
    address: str | None,
    prove: bool,
    config: Path | None,
    **flags: Any,
) -> None:
    """Write a model to the flash of an attached board, and have the board prove it.

    BUILD is a result folder or a .tflite file; without it, the result of the build which the
    settings ask for. Ends with 17 if the board cannot be reached, with 18 if writing failed.
    """
    from kiln.flashing import FlashRequest, flash_board

    requests = _requests(config, flags)
    if len(requests) != 1:
        raise RequestError("one board is flashed at a time", hint="name it: TARGET=grove-v2")
    flash_board(
        FlashRequest(
            build=requests[0],
            source=build,
            target_given=flags["target"] is not None,
            port=port,
            address=_number(address),
            prove=prove,
        ),
        _workplace(),
    )


@kiln.command()
@_option(
    "--port", metavar="PATH", help="Where the board is; found by itself if it is the only one."
)
@_option("--target", metavar="NAME", help="Which kind of board.")
@click.option("--demo", is_flag=True, help="Show an emulated board, which looks at demo pictures.")
@click.option(
    "--build",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The result folder whose model the emulated board runs; that of the demo.",
)
@_option(
    "--executor",
    type=click.Choice(["auto", "docker", "local"]),
    help="Where the demo's steps run.",
)
@click.option("--listen", metavar="ADDRESS", default="127.0.0.1", help="Let others see the page.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=0, help="A free one if 0.")
@click.option(
    "--record", type=click.Path(path_type=Path), help="Record into this folder from the start on."
)
@click.option("--open/--no-open", "show", default=True, help="Open the page in a browser.")
def monitor(**settings: Any) -> None:
    """Show on a page what a board sees, and record it as training data. Ctrl-C ends it.

    The page is for this host alone; with --listen, for whoever has the address that is printed.
    """
    from kiln.watching import WatchRequest, monitor_board

    monitor_board(WatchRequest(**settings), _workplace())


@kiln.command()
@click.option("--store", is_flag=True, help="Also every finished step: builds start from nothing.")
@click.option("--environments", is_flag=True, help="Also stage environments and images.")
def clean(store: bool, environments: bool) -> None:
    """Remove unfinished work, logs, volumes; results under build/ stay."""
    from kiln.commands import clean_up

    clean_up(_workplace(), store=store, environments=environments)


@kiln.command()
@click.option("--older", metavar="AGE", default="7d", help="Unused for so long: 30d, 12h; 7d.")
@click.option("--keep", metavar="SIZE", help="Then those used longest ago, down to 5GiB, 500M.")
@click.option("--force", is_flag=True, help="Also steps that recorded builds are made of.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def gc(older: str, keep: str | None, force: bool, dry_run: bool) -> None:
    """Remove finished steps, environments and images that no recorded build needs."""
    from kiln.commands import collect_garbage

    collect_garbage(_workplace(), older=older, keep=keep, force=force, dry_run=dry_run)


def _number(text: str | None) -> int | None:
    """A number as one writes an address: decimal, or hexadecimal with 0x."""
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        raise RequestError(f"ADDRESS={text} is no number", hint="write it as 0x400000") from None


def _requests(config: Path | None, flags: dict[str, Any]) -> list[BuildRequest]:
    """One request, or for `all` one for each target that can do the task."""
    from kiln.targets import load_target, target_names

    default = Path("kiln.toml")
    chosen = config or (default if default.is_file() else None)
    request = load_request(Flags(**flags), chosen, Path.cwd())
    if request.target != ALL_TARGETS:
        return [request]
    folder = _workplace().root / "targets"
    targets = [load_target(folder, name) for name in target_names(folder)]
    able = [target.name for target in targets if request.task in target.tasks]
    return [dataclasses.replace(request, target=name) for name in able]


def _workplace() -> Workplace:
    root = Path(__file__).resolve().parent.parent
    home = Path(os.environ.get("KILN_HOME") or root / ".kiln").absolute()
    return Workplace(root=root, home=home, results=Path.cwd() / "build")


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
    from kiln.console import Terminal

    if "--debug" in sys.argv:
        traceback.print_exc()
    Terminal().error(error)
    sys.exit(error.exit_code)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
