"""Lists image files and checks that they open, without importing the training library."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from stages.yolo import IMAGE_SUFFIXES

#: Names that PIL has for ultralytics' formats; for some others it starts programs of the host.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
#: The trainer ignores anything smaller.
LEAST_SIDE = 10
_DRAFT = 8


def list_images(folder: Path) -> list[Path]:
    """The images below a folder, sorted by name."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    ]
    return sorted(found, key=lambda path: path.as_posix())


def fault_of_image(path: Path) -> str | None:
    """Decode an image to its end; None if it is whole, else what is wrong with it."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if min(image.size) < LEAST_SIDE:
                return f"is {image.width} x {image.height} pixels; at least {LEAST_SIDE} a side"
            # A JPEG is still read to its end, in half the time.
            image.draft(None, (image.width // _DRAFT, image.height // _DRAFT))
            image.load()
    # Where ultralytics is loaded, it looks for a reader of other formats, which is not installed.
    except (UnidentifiedImageError, ModuleNotFoundError):
        return "is empty" if path.stat().st_size == 0 else "does not open as an image"
    except Image.DecompressionBombError:
        return f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, too many for an image"
    except Exception as error:  # decoders raise anything on a broken file
        return f"does not open as an image: {error}"
    return None
