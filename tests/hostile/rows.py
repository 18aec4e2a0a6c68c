"""Bad inputs at the command line: what is typed, what lies there, and what is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.hostile.crafted import (
    Make,
    also,
    build_document,
    data_set,
    foreign_name,
    laughs,
    link,
    pipe,
    png,
    text,
    toml,
    write,
)

LONG = "a" * 5000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A bad input: what is typed, what lies there, the exit code and the line that is read."""

    name: str
    types: tuple[str, ...] = ("explain",)
    make: Make = lambda _folder: None
    code: int = 2
    says: str


def _data(name: str, make: Make, says: str, *, code: int = 3, at: str = "data.yaml") -> Row:
    """A data set that the driver itself refuses."""
    return Row(name=name, types=("explain", "--data", at), make=make, code=code, says=says)


def _checked(name: str, task: str, make: Make) -> Row:
    """A data set in which the step `check` finds one fault."""
    arguments = ("build", "--executor", "local", "--task", task, "--data", ".")
    return Row(name=name, types=arguments, make=make, code=3, says="the data set has 1 fault")


SETTINGS = (
    Row(
        name="a settings file that nests without end",
        make=toml("a = " + "[" * 30_000),
        says=r"kiln\.toml is not valid TOML: .*recursion.*",
    ),
    Row(
        name="a settings file of 100 MB",
        make=lambda folder: _sparse(folder / "kiln.toml", 100_000_000),
        says=r"kiln\.toml is larger than 64 KiB: that is no settings file",
    ),
    Row(
        name="a settings file without end",
        make=link("kiln.toml", "/dev/zero"),
        types=("explain", "--config", "kiln.toml"),
        says=r"kiln\.toml is larger than 64 KiB: that is no settings file",
    ),
    Row(
        name="a key of thousands of parts",
        make=toml("a." * 4000 + "a = 1"),
        says=r"unknown key 'a' in kiln\.toml",
    ),
    Row(
        name="a key given twice",
        make=toml("imgsz = 64\nimgsz = 96"),
        says=r"kiln\.toml is not valid TOML: Cannot overwrite a value .*",
    ),
    Row(
        name="a number of thousands of digits",
        make=toml("imgsz = " + "9" * 5000),
        says=r"kiln\.toml is not valid TOML: Exceeds the limit .*",
    ),
    Row(
        name="a hexadecimal number of thousands of digits",
        make=toml("imgsz = 0x" + "f" * 5000),
        says=r"kiln\.toml: imgsz is too large a number",
    ),
    Row(
        name="a date for a number",
        make=toml("imgsz = 2020-01-01"),
        says=r"kiln\.toml: imgsz is datetime\.date\(2020, 1, 1\)",
    ),
    Row(
        name="a date among the trainer's own settings",
        make=toml("[train]\nlr0 = 2020-01-01"),
        says=r"kiln\.toml: train: overrides\.lr0 is 2020-01-01",
    ),
    Row(
        name="a learning rate that is no number",
        make=toml("[train]\nlr0 = nan"),
        says=r"kiln\.toml: train: overrides\.lr0 is nan",
    ),
    Row(
        name="a time limit that is no number",
        make=toml("[limits]\ntimeout_s = nan"),
        says=r"kiln\.toml: limits: timeout_s is nan",
    ),
    Row(
        name="a time limit without end",
        make=toml("[limits]\ntimeout_s = 1e999"),
        says=r"kiln\.toml: limits: timeout_s is inf",
    ),
    Row(
        name="a memory limit beyond any engine",
        make=toml("[limits]\nmemory_mib = 4611686018427387904"),
        says=r"limits\.memory_mib is 4611686018427387904",
    ),
    Row(
        name="a seed that no generator takes",
        make=toml("[train]\nseed = 99999999999"),
        says=r"train\.seed is 99999999999",
    ),
    Row(
        name="a number for a table",
        make=toml("train = 5"),
        types=("explain", "--epochs", "1"),
        says=r"kiln\.toml: train must be a table",
    ),
    Row(
        name="a list for a name",
        make=toml('target = ["grove-v2"]'),
        says=r"kiln\.toml: target is \['grove-v2'\]",
    ),
    Row(
        name="a settings file that is no text",
        make=lambda folder: write(folder, {"kiln.toml": b"\xff\xfe\0"}),
        says=r"kiln\.toml cannot be read: .*can't decode byte.*",
    ),
)

NAMES = (
    Row(
        name="a name that leads elsewhere",
        types=("explain", "--name", "../../canary"),
        says=r"NAME='../../canary' cannot name files",
    ),
    Row(
        name="a name of two lines",
        types=("explain", "--name", "ok\n"),
        says=r"NAME='ok\\n' cannot name files",
    ),
    Row(
        name="a name that is an option elsewhere",
        types=("explain", "--name=-rf"),
        says=r"NAME='-rf' cannot name files",
    ),
    Row(
        name="a name for a shell",
        types=("explain", "--name", "a;touch canary"),
        says=r"NAME='a;touch canary' cannot name files",
    ),
    Row(
        name="a name longer than a file's may be",
        types=("explain", "--name", "a" * 200),
        says=r"NAME='a{200}' cannot name files",
    ),
    Row(
        name="a model of two lines",
        types=("explain", "--model", "yolov8n\n"),
        says=r"MODEL='yolov8n\\n' is no YOLOv8 that Kiln builds",
    ),
    Row(
        name="a target that is a path",
        types=("explain", "--target", "../../canary"),
        make=text("canary.toml", 'name = "canary"'),
        says=r"unknown target '\.\./\.\./canary'",
    ),
    Row(
        name="an image size of thousands of digits",
        types=("explain", "--imgsz", "9" * 4000),
        says=r"the request: imgsz is too large a number",
    ),
    Row(
        name="a data set's path longer than any",
        types=("explain", "--data", LONG),
        says=r"the path 'a{80}' cannot be used: File name too long",
    ),
    Row(
        name="weights' path longer than any",
        types=("explain", "--weights", f"{LONG}/best.pt"),
        says=r"the path 'a{80}' cannot be used: File name too long",
    ),
    Row(
        name="the home of nobody",
        types=("explain", "--data", "~nobody-of-this-name/data.yaml"),
        says=r"the path '~nobody-.*' cannot be used: Could not determine home directory\.",
    ),
    Row(
        name="a path that is no UTF-8",
        types=("explain", "--data", "caf\udce9.yaml"),
        make=text("caf\udce9.yaml", ""),
        says=r"the path 'caf\\udce9\.yaml' cannot be used: .*surrogates not allowed",
    ),
    Row(
        name="an address that is none",
        types=("explain", "--data", "http://[1/data.zip"),
        says=r"'http://\[1/data\.zip' is no address: Invalid IPv6 URL",
    ),
    Row(
        name="an address of two lines",
        types=("explain", "--weights", "http://127.0.0.1:9/a\r\nHost: b.pt"),
        says=r"'http://127\.0\.0\.1:9/a\\r\\nHost: b\.pt' is no address",
    ),
    Row(
        name="weights that are a device",
        types=("explain", "--weights", "/dev/zero"),
        code=4,
        says=r"the weights /dev/zero do not exist",
    ),
)

DESCRIPTIONS = (
    _data(
        "names of a terabyte",
        data_set(laughs("names")),
        r".*data\.yaml cannot be read as YAML: it holds an alias \(\*name\): write the value out",
    ),
    _data(
        "a path of a terabyte",
        data_set("names: [a]\n" + laughs("path")),
        r".*data\.yaml cannot be read as YAML: it holds an alias .*",
    ),
    _data(
        "a description that makes objects",
        data_set('names: !!python/object/apply:os.system ["touch canary"]'),
        r".*data\.yaml cannot be read as YAML: could not determine a constructor for the tag .*",
    ),
    _data(
        "a description that nests without end",
        data_set("names: " + "[" * 10_000),
        r".*data\.yaml cannot be read as YAML: maximum recursion depth exceeded.*",
    ),
    _data(
        "a description of 100 MB",
        lambda folder: _sparse(folder / "data.yaml", 100_000_000),
        r".*data\.yaml cannot be read as YAML: it is larger than 1024 KiB",
    ),
    _data(
        "a description without end",
        link("data.yaml", "/dev/zero"),
        r"the data set .*/data\.yaml does not exist",
    ),
    _data(
        "a description that nobody writes",
        pipe("data.yaml"),
        r"the data set .*/data\.yaml does not exist",
    ),
    _data(
        "names that no order holds",
        data_set("train: images/train\nval: images/val\nnames: {0: a, b: c}"),
        r"names of .*data\.yaml must number the classes from 0 without a gap",
    ),
    _data(
        "a list of images without end",
        also(data_set("train: all.txt\nval: images/val\nnames: [a]"), link("all.txt", "/dev/zero")),
        r".*/all\.txt is neither a folder nor a \.txt list of images",
    ),
    _data(
        "a list of images that is no text",
        data_set("train: all.txt\nval: images/val\nnames: [a]", {"all.txt": b"\xff\xfe\0"}),
        r".*/all\.txt is no list of images: .*can't decode byte.*",
    ),
    _data(
        "a list with a name longer than any",
        data_set("train: all.txt\nval: images/val\nnames: [a]", {"all.txt": LONG}),
        r".*/all\.txt:1: a{200} does not exist",
    ),
    _data(
        "a folder with a name longer than any",
        data_set(f"train: {LONG}\nval: images/val\nnames: [a]"),
        r"train of .*data\.yaml names a{200}, which does not exist in .*",
    ),
    _data(
        "the home of nobody as the place of images",
        data_set("path: ~nobody-of-this-name\ntrain: images/train\nval: x\nnames: [a]"),
        r"path of .*data\.yaml is '~nobody-of-this-name', which cannot be looked up",
    ),
    _data(
        "a picture that nobody writes",
        also(data_set(), pipe("images/train/b.png")),
        r".*/images/train/b\.png is no file, or a link to none",
    ),
    _data(
        "a picture without end",
        also(data_set(), link("images/train/b.png", "/dev/zero")),
        r".*/images/train/b\.png is no file, or a link to none",
    ),
    _data(
        "a picture that is not there",
        also(data_set(), link("images/train/b.png", "nowhere.png")),
        r".*/images/train/b\.png is no file, or a link to none",
    ),
    _data(
        "a picture whose name is no UTF-8",
        foreign_name,
        r"the name of '.*b\\udce9\.png' is not UTF-8",
    ),
)

BUILDS = (
    Row(
        name="a build that nests without end",
        types=("compare", "build.json", "build.json"),
        make=text("build.json", "[" * 200_000),
        says=r"build\.json cannot be read: maximum recursion depth exceeded.*",
    ),
    Row(
        name="a build of the wrong types to compare",
        types=("compare", "build.json", "build.json"),
        make=text("build.json", build_document(numbers=[], verdict=5, board="x")),
        says=r"build\.json was changed since Kiln wrote it: .*",
    ),
    Row(
        name="a build of the wrong types to report on",
        types=("report", "--no-open", "."),
        make=text("build.json", build_document(numbers="x", steps=5, verdict=[1])),
        says=r"build\.json was changed since Kiln wrote it: .*",
    ),
    Row(
        name="a build that is a number",
        types=("compare", "build.json", "build.json"),
        make=text("build.json", "9" * 5000),
        says=r"build\.json cannot be read: Exceeds the limit .*",
    ),
)

MODELS = (
    Row(
        name="a model of a terabyte",
        types=("inspect", "m.tflite", "--executor", "local"),
        make=lambda folder: _sparse(folder / "m.tflite", 1 << 40),
        code=13,
        says=r"m\.tflite has 1048576 MiB: no board has room for it",
    ),
    Row(
        name="a model that is a device",
        types=("inspect", "/dev/zero", "--executor", "local"),
        code=13,
        says=r"/dev/zero is not there",
    ),
    Row(
        name="a model whose name is no UTF-8",
        types=("inspect", "caf\udce9.tflite", "--executor", "local"),
        make=text("caf\udce9.tflite", ""),
        code=13,
        says=r"the path 'caf\\udce9\.tflite' cannot be used",
    ),
)

#: What a step refuses, rather than the driver.
OF_STEPS = (
    Row(
        name="a model that points beyond its end",
        types=("inspect", "m.tflite", "--executor", "local"),
        make=lambda folder: write(folder, {"m.tflite": b"x\0\0\0TFL3" + b"a" * 9}),
        code=13,
        says=r"the model is cut short or damaged: .*",
    ),
    _checked(
        "keypoints without end",
        "pose",
        data_set(
            "train: images/train\nval: images/val\nnames: [a]\nkpt_shape: [1000000000, 3]\n"
            "flip_idx: [0]"
        ),
    ),
    _checked(
        "a picture that claims ten thousand million pixels",
        "detect",
        data_set(None, {"images/val/b.png": png(100_000, 100_000)}),
    ),
)


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        stream.truncate(size)


OF_THE_DRIVER = (*SETTINGS, *NAMES, *DESCRIPTIONS, *BUILDS, *MODELS)
