"""Bad files that a step judges, many at once, and what is said of each."""

from __future__ import annotations

import stat

from tests.hostile.crafted import SOUND, archive, laughs, linked, png, special

#: What is said of each file of one data set; the others are sound.
FAULTS = {
    "images/train/bomb.png": "has more than 178,956,970 pixels, too many for an image",
    "images/train/none.png": r"does not open as an image.*",
    "images/train/thin.png": r"is 1 x 65000 pixels; at least 10 a side",
    "images/train/short.png": r"does not open as an image: .*truncated.*",
    "images/train/script.jpg": r"does not open as an image",
    "images/train/page.jpg": r"does not open as an image",
    "images/train/moving.png": r"does not open as an image",
    "images/train/table.tif": r"does not open as an image.*",
    "labels/train/long.txt": r"has more than 2 MiB",
    "labels/train/nan.txt": r"holds nan or inf",
    "labels/train/inf.txt": r"holds nan or inf",
    "labels/train/huge.txt": r"class 1e\+300, but data\.yaml names class 0 only",
    "labels/train/code.txt": r"\"__import__\('os'\)\" is not a number",
    "labels/train/bytes.txt": r"is not a text file",
}
IMAGES = {
    "images/train/bomb.png": png(100_000, 100_000),
    "images/train/none.png": png(0, 0),
    "images/train/thin.png": png(1, 65_000),
    "images/train/short.png": png(32, 32),
    "images/train/deep.png": png(32, 32, depth=16, pixels=bytes(65 * 32)),
    "images/train/script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "images/train/page.jpg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "images/train/moving.png": b"GIF89a\x20\0\x20\0\0\0\0;",
    "images/train/table.tif": b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40,
}
LABELS: dict[str, bytes | str] = {
    "long": b"0 .5 .5 .2 .2\n" * 7_000_000,
    "nan": "0 nan .5 .2 .2",
    "inf": "0 .5 .5 1e999 .2",
    "huge": "1e300 .5 .5 .2 .2",
    "code": "__import__('os') .5 .5 .2 .2",
    "bytes": b"\xff\xfe0\0",
}

#: By name: what a fetched archive holds, and what is said, or the images and labels taken.
_YAML = ("data.yaml", b"names: [a]\ntrain: train/images\nval: train/images\n")
_IMAGE = ("train/images/a.png", SOUND)
_TAKEN = [
    f"{kind}/{split}/a{end}"
    for kind, end in (("images", ".png"), ("labels", ".txt"))
    for split in ("train", "val")
]
ARCHIVES: dict[str, tuple[bytes, str | list[str]]] = {
    "sound": (
        archive(_YAML, _IMAGE, ("train/labels/a.txt", b"")),
        [*sorted([*_TAKEN, "data.yaml"])],
    ),
    "up": (archive(("../../canary", b"")), r"up\.zip would write outside its folder: .*"),
    "root": (archive(("/tmp/canary", b"")), r"root\.zip would write outside its folder: .*"),
    "drive": (archive(("C:/canary", b"")), r"drive\.zip would write outside its folder: .*"),
    "back": (archive(("..\\canary", b"")), r"back\.zip would write outside its folder: .*"),
    "link": (archive(_YAML, linked("train")), r"link\.zip holds a link or device: 'train'"),
    "pipe": (archive(special("train", stat.S_IFIFO)), r"pipe\.zip holds a link or device: .*"),
    "nameless": (archive(("./.", b"")), r"nameless\.zip holds a name that no file can have: .*"),
    "long": (archive(("a" * 300, b"")), r"long\.zip holds a name that no file can have: .*"),
    "deep": (
        archive(("a/" * 3000 + "a", b"")),
        r"deep\.zip holds a name that no file can have: .*",
    ),
    "twice": (archive(_YAML, ("data.yaml/x", b"")), r"twice\.zip is damaged .*"),
    "bomb": (
        archive(*[(f"{n}.png", bytes(1 << 26)) for n in range(20)]),
        r"bomb\.zip unpacks to .*",
    ),
    "laughs": (archive(("data.yaml", laughs("names").encode())), r".* it holds an alias .*"),
    "object": (
        archive(("data.yaml", b"names: !!python/object/apply:os.system [touch canary]")),
        r"data\.yaml of the archive is not YAML: could not determine a constructor .*",
    ),
    "folder": (archive(("data.yaml/x/y", b"")), r"the archive holds no data\.yaml"),
    "outside": (
        archive(("data.yaml", b"names: [a]\npath: /etc\ntrain: /etc\nval: ../../..")),
        r"the archive has no /etc, which its data\.yaml names as train",
    ),
    "listed": (
        archive(
            ("data.yaml", b"names: [a]\ntrain: all.txt\nval: all.txt"),
            ("all.txt", b"/etc/passwd\n../../../../../etc/passwd\n" + b"n" * 5000),
        ),
        r"the archive has no images for train \(all\.txt\)",
    ),
    "bytes": (
        archive(("data.yaml", b"names: [a]\ntrain: all.txt\nval: x"), ("all.txt", b"\xff\xfe")),
        r"all\.txt of the archive is no list of images",
    ),
}

_OTHER = r"the network is not of the YOLOv8 family with a plain head: it has "
_UNFIT = r"the weights do not fit the architecture yolov8n-pose that they name: "
_RUNS = r"opening the weights would run code: they ask for "
#: What is said to weights that `attacks` makes.
WEIGHTS = {
    "system.pt": _RUNS + r"posix\.system",
    "eval.pt": _RUNS + r"__builtin__\.eval",
    "partial.pt": _RUNS + r"functools\.partial, posix\.system",
    "hub.pt": _RUNS + r"torch\.hub\.load",
    "numpy.pt": _RUNS + r"numpy\.load",
    "dill.pt": _RUNS + r"dill\._dill\._create_function",
    "inner.pt": _RUNS + r"posix\.system",
    "getattr.pt": r"the weights are of a getattr, and .*",
    "another.pt": r"the weights are of a DistillationModel, and .*",
    "download.pt": r"the weights are of a TorchVision, and .*",
    "path.pt": r"the description of the network is damaged: .*",
    "activation.pt": _OTHER + r"activation .*",
    "digit.pt": _UNFIT.replace("yolov8n", "yolov8n-relu") + r"its description makes no network: .*",
    "argument.pt": _OTHER + r"Conv with .*",
    "layer.pt": _OTHER + r"layers of the kind torchvision\.ops\.MLP",
    "list.pt": _OTHER + r"the row .*",
    "repeats.pt": _OTHER + r"the row .*",
    "pools.pt": _OTHER + r"SPPF with .*",
    "channels.pt": _UNFIT + r".*",
    "depth.pt": _OTHER + r"a depth of 1000000000\.0",
    "upsampled.pt": _UNFIT + r"its description is of a network larger than .*",
    "joined.pt": _UNFIT + r"its description .*",
    "keypoints.pt": r"the pose network has 1000000000 keypoints",
    "laughs.pt": r"the weights cannot be read: a description of more items than there can be",
    "names.pt": r"the weights cannot be read: a description of more items than there can be",
    "ring.pt": r"the weights cannot be read: a network of more modules than there can be",
    "twins.pt": r"the weights cannot be read: a network of more modules than there can be",
    "endless.pt": r"the weights cannot be read: a tensor that is larger than the file",
    "remembered.pt": r"the weights are bare tensors: .*",
    "nested.pt": r"the weights file holds no checkpoint",
    "long.pt": r"the weights cannot be read: .*",
    "two.pt": r"the weights file is a zip archive without a network",
    "packed.pt": r"the weights file is damaged: its members are compressed",
    "header.safetensors": r"weights\.safetensors cannot be read as safetensors: .*",
    "types.safetensors": r"the description inside weights\.safetensors is damaged: .*",
    "code.safetensors": _OTHER + r"activation .*",
    "sound.safetensors": "",
}

_DAMAGED = r"the model is cut short or damaged: "
#: What is said to the TFLite files that `reading` makes; "" to those that are only odd.
TFLITE = {
    "sound": "",
    "cut": _DAMAGED + r"unpack_from requires a buffer of .*",
    "claims": _DAMAGED + r"unpack_from requires a buffer of .*",
    "itself": _DAMAGED + r"it has no graph",
    "buffers": _DAMAGED + r"its parts together are larger than it is",
    "tensors": _DAMAGED + r"its parts together are larger than it is",
    "names": _DAMAGED + r"its parts together are larger than it is",
    "nested": "",
    "literal": "",
    "types": "",
    "terminal": "",
}
