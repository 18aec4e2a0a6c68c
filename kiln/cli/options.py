"""What the commands share: options that make variables set, and the requests they amount to."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kiln.errors import RequestError
from kiln.paths import Paths, home_of
from kiln.plan.request import BuildRequest, Flags, load_request

Command = TypeVar("Command", bound=Callable[..., Any])

ALL_TARGETS = "all"


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """An option that a make variable of the same name may set: --imgsz and KILN_IMGSZ."""
    long = next(name for name in names if name.startswith("--"))
    variable = f"KILN_{long.split('/')[0].removeprefix('--').replace('-', '_').upper()}"
    return click.option(*names, envvar=variable, show_envvar=False, default=None, **settings)


port_option = option(
    "--port", metavar="PATH", help="Where the board is; found by itself if it is the only one."
)

_COMMON_OPTIONS = (
    option("--target", metavar="NAME", help="The board; `kiln targets` lists them, `all` is all."),
    option(
        "--firmware",
        metavar="GENERATION",
        help="Of the board's firmware; the oldest that has the task. `kiln targets` lists them.",
    ),
    option(
        "--task", type=click.Choice(["pose", "detect", "classify"]), help="What the model finds."
    ),
    option("--data", metavar="PATH", help="data.yaml, a folder, a published name, or a URL."),
    option("--executor", type=click.Choice(["auto", "docker", "local"]), help="Where steps run."),
    option("--camera", metavar="MODE", help="The camera's mode, one of the board's: 240x240."),
    option(
        "--framing",
        type=click.Choice(["fit", "fill"]),
        help="Whether an image fits the camera's frame whole, or fills it and is cut.",
    ),
    option("--registry", metavar="PREFIX", help="Pull stage images from here, if they are there."),
    option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Settings file; ./kiln.toml is taken if it is there.",
    ),
)
_BUILD_OPTIONS = (
    option("--weights", metavar="FILE", help="Own .pt, a published name, or `scratch`."),
    option(
        "--model", metavar="SIZE", help="Architecture if weights do not say: yolov8n, yolov8n-relu."
    ),
    option("--imgsz", type=int, metavar="PIXELS", help="Side of the square input image."),
    option("--epochs", type=click.IntRange(min=0), help="0 takes the weights as they are."),
    option("--batch", type=click.IntRange(min=1), help="Images a training batch."),
    option("--name", metavar="NAME", help="Name of the result folder and files."),
    option("--gpu", type=click.Choice(["none", "auto", "required"]), help="GPU for training."),
    option(
        "--reproducible/--no-reproducible",
        help="Train to the same weights on any number of cores: on the CPU alone.",
    ),
    option(
        "--quant",
        "granularity",
        type=click.Choice(["mixed", "per-tensor", "per-channel", "finetuned"]),
        help="Which int8 weights share a scale; finetuned: they are trained as they are.",
    ),
    option("--layers/--no-layers", help="Also say where along the network int8 errs most."),
    option(
        "--trust-weights/--no-trust-weights",
        help="Open a .pt that holds more than plain tensors: that runs its code.",
    ),
    option(
        "--force/--no-force",
        help="Keep a model that the firmware would not take, marked as not accepted.",
    ),
)


def board_options(command: Command) -> Command:
    """Add what tells the boards at this computer apart."""
    return port_option(option("--target", metavar="NAME", help="Which kind of board.")(command))


def common_options(command: Command) -> Command:
    """Add what a finished file can be asked about, too."""
    for add in reversed(_COMMON_OPTIONS):
        command = add(command)
    return command


def request_options(command: Command) -> Command:
    """Add all that decides what a build gives."""
    for add in reversed(_BUILD_OPTIONS):
        command = add(command)
    return common_options(command)


def requests_of(config: Path | None, flags: dict[str, Any]) -> list[BuildRequest]:
    """One request, or for `all` one for each target that can do the task."""
    from kiln.plan.targets import load_target, target_names

    default = Path("kiln.toml")
    chosen = config or (default if default.is_file() else None)
    request = load_request(Flags(**flags), chosen, Path.cwd())
    if request.target != ALL_TARGETS:
        return [request]
    if request.firmware is not None:
        raise RequestError(
            f"FIRMWARE={request.firmware} is a generation of one board's firmware",
            hint="name the board too, or leave FIRMWARE out: each is built for the oldest that "
            "has the task",
        )
    folder = default_paths().root / "targets"
    targets = [load_target(folder, name) for name in target_names(folder)]
    able = [target.name for target in targets if request.task in target.tasks]
    return [dataclasses.replace(request, target=name) for name in able]


def default_paths() -> Paths:
    """Where Kiln lies and keeps its state; results go into the working directory."""
    # Unresolved: where an installer links files out of its cache, this is still the package.
    root = Path(__file__).absolute().parents[2]
    return Paths(root=root, home=home_of(root, os.environ), results=Path.cwd() / "build")
