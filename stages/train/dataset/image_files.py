"""Whether a picture opens; without the weight of the training library."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

#: What ultralytics reads as pictures.
IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".mpo", ".dng", ".pfm", ".heic")
)
#: What PIL calls those. Of its other formats it opens some with programs of the host.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
#: The trainer leaves out anything smaller.
_LEAST_SIDE = 10
_DRAFT = 8


def list_images(folder: Path) -> list[Path]:
    """The pictures below a folder, by name."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    ]
    return sorted(found, key=lambda path: path.as_posix())


def fault_of_image(path: Path) -> str | None:
    """Decode a picture to its end; None if it is whole, else what is wrong with it."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if min(image.size) < _LEAST_SIDE:
                return f"is {image.width} x {image.height} pixels; at least {_LEAST_SIDE} a side"
            # A JPEG is still read to its end this way, at half the time.
            image.draft(None, (image.width // _DRAFT, image.height // _DRAFT))
            image.load()
    except UnidentifiedImageError:
        return "is empty" if path.stat().st_size == 0 else "does not open as a picture"
    except Image.DecompressionBombError:
        return f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, too many for a picture"
    except Exception as error:  # whatever a decoder meets in a broken file
        return f"does not open as a picture: {error}"
    return None
