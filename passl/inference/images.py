"""Images as people have them - paths, folders, arrays, PIL images, tensors - to batches a network takes."""
from __future__ import annotations

import hashlib
import os
from typing import Any, Iterator, List, Mapping, NamedTuple, Sequence, Tuple, Union

import numpy as np
import paddle

from passl.data.augment.transforms import ImageTransform
from passl.data.batch import Normalizer
from passl.data.decode import as_rgb, read_image
from passl.data.folders import is_image
from passl.data.random_streams import Stream
from passl.data.sources import ImageFiles, find_image_files
from passl.errors import DataError, UserError
from passl.files import PathLike


class Images(NamedTuple):
    """items: one a picture, paths or arrays; single: the caller gave one picture, not several."""

    items: List[Any]
    single: bool


def collect(images: Any) -> Images:
    """What the caller gave as a flat list of pictures.

    A picture is the path of an image file, a PIL image, a uint8 array or tensor [H, W, 3] (or [H, W] grey, [3, H, W]),
    or a float array or tensor [3, H, W], which is taken as normalised already. With a leading dimension arrays and
    tensors are batches. A folder stands for all images in it, a text file for the images it lists. Lists may mix these.
    TypeError or ValueError for anything else, and for an empty list.
    """
    if isinstance(images, (str, os.PathLike)):
        samples = find_images(images)
        return Images([samples.path(index) for index in range(len(samples))],
                      is_image(os.path.expanduser(images)))
    if isinstance(images, paddle.Tensor):
        if images.dtype == paddle.bfloat16:
            images = images.astype("float32")  # NumPy would show its bits as integers
        images = images.numpy()
    if isinstance(images, np.ndarray):
        if images.ndim == 4:
            if not len(images):
                raise UserError("the batch of images is empty")
            return Images([_array(image) for image in images], False)
        return Images([_array(images)], True)
    if hasattr(images, "convert"):  # a PIL image
        return Images([_array(as_rgb(images))], True)
    if isinstance(images, Mapping) or not isinstance(images, Sequence):
        raise TypeError(f"cannot read images from {type(images).__name__}; give a path, a folder, a PIL image, a uint8 "
                        "array [H, W, 3], a float tensor [3, H, W], or a list of these")
    if not len(images):
        raise UserError("the list of images is empty")
    return Images([item for image in images for item in collect(image).items], False)


def find_images(places: Union[PathLike, Sequence[PathLike]]) -> ImageFiles:
    """Images named by paths of files, folders and list files, in that order; classes are merged by name.

    DataError for a path that does not exist; TypeError for anything that is no path.
    """
    names = [os.path.expanduser(place) for place in ([places] if isinstance(places, (str, os.PathLike)) else places)]
    for place in names:
        if not os.path.exists(place):
            raise DataError(f"{place} does not exist (looked from {os.getcwd()}): give image files, folders or list "
                            "files")
    return find_image_files(names, labelled=False, strict=False)


def digest(samples: ImageFiles) -> str:
    """SHA-256 of paths, file sizes, times of change, labels and class names: whether two lists are the same images."""
    total = hashlib.sha256()
    for index in range(len(samples)):
        path = samples.path(index)
        try:
            state = os.stat(path)
            total.update(f"{state.st_size} {state.st_mtime_ns} ".encode())
        except OSError:
            total.update(b"missing ")  # whoever reads the file reports it, by name
        total.update(os.fsencode(path) + b"\n")
    total.update(samples.labels.tobytes() + os.fsencode("\n".join(samples.classes)))
    return total.hexdigest()


def _array(image: np.ndarray) -> np.ndarray:
    """One picture as uint8 [H, W, 3] or float32 [3, H, W]."""
    if 0 in image.shape:
        raise UserError(f"an array of {list(image.shape)} is an empty picture")
    if image.dtype == np.uint8:
        if image.ndim == 2:
            return np.repeat(image[..., None], 3, axis=2)
        if image.ndim == 3 and image.shape[2] == 3:
            return np.ascontiguousarray(image)
        if image.ndim == 3 and image.shape[0] == 3:
            return np.ascontiguousarray(image.transpose(1, 2, 0))
        wanted = "uint8 arrays are [H, W, 3], [3, H, W] or [H, W]"
    elif image.dtype.kind == "f" and image.ndim == 3 and image.shape[0] == 3:
        return image.astype(np.float32)
    else:
        wanted = "integers must be uint8 (0..255); floats are normalised tensors [3, H, W] or [B, 3, H, W]"
    raise UserError(f"an array of {image.dtype} {list(image.shape)} is no picture: {wanted}")


def batches(items: Sequence[Any], transform: Sequence[Mapping[str, Any]], batch_size: int
            ) -> Iterator[Tuple[int, paddle.Tensor]]:
    """Yield (number of the first item, float32 [b, 3, H, W]) over all items, uint8 pictures and files transformed."""
    pixels = ImageTransform(list(transform))
    normalize = Normalizer(*pixels.normalization)
    for start in range(0, len(items), batch_size):
        prepared = [_prepare(item, pixels, normalize) for item in items[start:start + batch_size]]
        shapes = sorted({tuple(image.shape) for image in prepared})
        if len(shapes) > 1:
            raise UserError(f"pictures of one batch have shapes {' and '.join(map(str, shapes[:2]))} after the "
                            "transforms; end the transform list with a crop of fixed size, or give them one by one")
        yield start, paddle.concat(prepared) if len(prepared) > 1 else prepared[0]


def _prepare(item: Any, pixels: ImageTransform, normalize: Normalizer) -> paddle.Tensor:
    image = read_image(item, pixels.reduction) if isinstance(item, str) else item
    if image.dtype == np.uint8:
        return normalize(paddle.to_tensor(pixels(image, Stream(0, 0, 0))[None]))
    return paddle.to_tensor(image[None])
