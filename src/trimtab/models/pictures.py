"""Pictures: raster files and images decoded to RGB within bounds, and the pixel values that a network reads."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from trimtab.errors import DataError, TrimtabError, refusal
from trimtab.models import families
from trimtab.runs.files import check_regular, reading
from trimtab.runs.paths import neighbour, path_problem

Picture = Image.Image | str | Path
"""What stands for a picture: an image of Pillow, or the path of a file."""

MOST_PIXELS = 25_000_000
"""Pixels that a picture may have. Processors shrink it to a few hundred a side; beyond, decoding costs seconds."""

FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "PPM": (".ppm", ".pgm", ".pbm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""Formats that are read, with the endings of their files. Others of Pillow's run programs (EPS) or are no pictures."""

ENDINGS = tuple(ending for endings in FORMATS.values() for ending in endings)
_EXPECTED = "a picture in " + ", ".join(FORMATS)


def read_picture(source: Picture, where: str = "picture") -> Image.Image:
    """Picture in RGB, decoded: 8 bits a channel, upright by its EXIF orientation, transparent parts on white.

    A damaged EXIF block turns nothing. Of an animation the first frame. 16-bit grey keeps its upper 8 bits.

    Args:
        source: a file, or an image, which is left as it is.
        where: what to call it in errors; a file's path follows.

    Raises:
        DataError: a missing, empty, truncated or damaged file, one that is no picture of `FORMATS`, more than
            `MOST_PIXELS` pixels (found before they are decoded), none at all, or pixels that are no colours.

    >>> read_picture(Image.new("LA", (2, 1), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    if isinstance(source, Image.Image):
        return _decoded(source, where)
    if not isinstance(source, str | Path):
        raise refusal(where, f"a {type(source).__name__}", "the path of a picture or a PIL.Image.Image")
    if (problem := path_problem(where, source, _EXPECTED)) is not None:
        raise DataError(str(problem))
    path = Path(os.path.expanduser(source))  # noqa: PTH111 (`~nobody` is a problem above)
    at = f"{where}, {path}" if where else str(path)
    if not path.exists():
        raise refusal(at, "no such file", _EXPECTED, neighbour(path))
    with reading(at, _EXPECTED):
        check_regular(path, _EXPECTED)
        if path.stat().st_size == 0:
            raise refusal(at, "an empty file (0 bytes)", _EXPECTED, "downloading it again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its size, which is judged here, and of odd EXIF blocks
        try:
            with Image.open(path, formats=list(FORMATS)) as image:
                return _decoded(image, at)
        except TrimtabError:
            raise
        except UnidentifiedImageError as error:
            raise refusal(at, "a file that is no such picture", _EXPECTED) from error
        except Image.DecompressionBombError as error:
            raise _too_large(at, "far more pixels") from error
        except Exception as error:  # a damaged file can bring about any in Pillow's readers
            raise _damaged(at, error) from error


def _decoded(image: Image.Image, where: str) -> Image.Image:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise _too_large(where, f"{width} x {height} pixels ({width * height / 1e6:.0f} million)")
    if width * height == 0:
        raise refusal(where, f"{width} x {height} pixels", "at least one pixel")
    if image.mode in ("I", "F"):
        raise refusal(where, f"pixels of mode {image.mode}", "8 bits a channel", "image.convert('L')")
    try:
        upright = _upright(image)
        if upright.mode.startswith("I;16"):
            grey = np.asarray(
                upright
            )  # in the byte order of the mode; Pillow's own conversions know one of them
            return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
        if upright.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in upright.info:
            ground = Image.new("RGBA", upright.size, "white")
            return Image.alpha_composite(ground, upright.convert("RGBA")).convert("RGB")
        return upright.copy() if upright.mode == "RGB" else upright.convert("RGB")
    except Exception as error:  # as above, once the pixels are read
        raise _damaged(where, error) from error


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF block says; as it is where that block cannot be read.

    Damaged pixels are found here too, or else when they are converted.
    """
    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:  # a block that is no EXIF can bring about any
        return image


def _damaged(where: str, error: Exception) -> Exception:
    reason = str(error).strip().partition("\n")[0][:80] or type(error).__name__
    hint = "downloading it again: it is cut short or damaged"
    return refusal(where, f"a picture that cannot be decoded ({reason})", "a whole picture", hint)


def _too_large(where: str, got: str) -> Exception:
    hint = "image.thumbnail((2000, 2000)) and saving that"
    return refusal(where, got, f"at most {MOST_PIXELS / 1e6:.0f} million", hint)


def picture_list(pictures: Any) -> Iterator[Image.Image]:
    """Decoded pictures one at a time: of an iterable of `Picture`, or of a collection with `names` and `[name]`.

    Raises:
        DataError: a single picture or path, or one that cannot be decoded; its place is named.
    """
    if isinstance(pictures, Image.Image | str | bytes | Path):
        raise refusal("", f"one {type(pictures).__name__}", "a list of pictures", "[picture]")
    names = getattr(pictures, "names", None)
    if isinstance(names, tuple):
        return (pictures[name] for name in names)
    return (read_picture(one, f"picture {place}") for place, one in enumerate(pictures))


def pixel_batches(
    processor: Any, pictures: Any, *, batch_size: int, size: tuple[int, int] | None = None
) -> Iterator[Float[Tensor, "B C H W"]]:
    """Pixel values of pictures, `batch_size` at a time, as a processor resizes and normalises them.

    Args:
        processor: of images, or one that has such a part.
        pictures: files or images, or a named collection.
        batch_size: pictures at a time.
        size: height and width that the network reads; None where it reads any.

    Raises:
        ModelError: no processor of images, a batch size below 1, or one whose pictures are of another size.
        DataError: a picture that cannot be decoded, or pixels that are not finite numbers.
    """
    images_of = image_processor(processor)
    if batch_size < 1:
        raise families.refusal(batch_size, "at least 1", at="batch_size")
    given = picture_list(pictures)
    return _batches(images_of, given, batch_size, size)


def _batches(
    images_of: Any, given: Iterator[Image.Image], batch_size: int, size: tuple[int, int] | None
) -> Iterator[Tensor]:
    place = 0
    while batch := list(itertools.islice(given, batch_size)):
        with np.errstate(all="ignore"):  # what that makes is judged below
            values = torch.as_tensor(images_of(images=batch, return_tensors="pt")["pixel_values"])
        if size is not None and tuple(values.shape[-2:]) != size:
            got = "pictures of {} x {} from the processor".format(*values.shape[-2:])
            hint = "the processor that was saved with the model"
            raise families.refusal(got, "{} x {}, as the model reads them".format(*size), hint)
        finite = values.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            at = f"picture {place + int((~finite).nonzero()[0])}"
            raise refusal(at, "pixels that are nan or infinite", "numbers", "another processor (image_std)")
        yield values
        place += len(batch)


def image_processor(processor: Any) -> Any:
    """The part of a processor that reads images: the processor itself, or its `image_processor`.

    Raises:
        ModelError: there is none.
    """
    part = getattr(processor, "image_processor", processor)
    if not callable(part) or "pixel_values" not in getattr(part, "model_input_names", ()):
        got = "no processor" if processor is None else f"a {type(processor).__name__}"
        hint = "processor=AutoProcessor.from_pretrained(...), or a folder with preprocessor_config.json"
        raise families.refusal(got, "a processor of pictures", hint)
    return part
