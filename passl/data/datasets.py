"""Datasets: an entry (epoch, index) to a sample of uint8 pixels."""
from __future__ import annotations

from typing import Callable, Dict, List, Literal, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from passl.data.augment.multicrop import MultiCrop, Photometric
from passl.data.augment.transforms import ImageTransform
from passl.data.decode import decode_image
from passl.data.random_streams import Stream, stream_key
from passl.data.sources import ImageFiles, few_shot_list, find_image_files, labelled_list
from passl.errors import DataError
from passl.registry import DATASETS

ImageErrors = Literal["error", "skip"]
_REPLACEMENT_STREAM = 0xBAD
_MOST_REPLACEMENTS = 100


class ImageDataset:
    """What all datasets share: the source of images, and the policy for files that cannot be read.

    image_errors: "error" (default) stops at the first bad file and names it; "skip" takes another image, drawn from
    the stream of the bad sample so that every run takes the same one, and notes the file in `skipped`. The number of
    batches never changes. The returned index is that of the image really used.
    """

    remedy = "dataset.image_errors: skip would leave such files out"  # another one where there is no config

    def __init__(self, samples: ImageFiles, image_errors: ImageErrors, seed: int):
        self.samples, self.image_errors, self.seed = samples, image_errors, seed
        self.skipped: Dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> np.ndarray:
        """int64 [N], -1 where the data have no label."""
        return self.samples.labels

    @property
    def classes(self) -> List[str]:
        """Class names that labels index; empty when there are none."""
        return self.samples.classes

    def read(self, epoch: int, index: int,
             reduction: Optional[Callable[[int, int], int]] = None) -> Tuple[np.ndarray, int]:
        """Image `index`, uint8 [H, W, 3], or its replacement under `skip`; and the index of what was read.

        reduction: see `decode_image`.
        """
        name = self.samples.name(index)
        try:
            return self._decoded(index, reduction), index
        except DataError as error:
            if self.image_errors == "error":
                raise DataError(str(error), self.remedy) from None
            self.skipped[name] = str(error)
        stream = Stream(self.seed, epoch, index, _REPLACEMENT_STREAM)
        for _ in range(_MOST_REPLACEMENTS):
            other = stream.integer(len(self))
            try:
                return self._decoded(other, reduction), other
            except DataError as error:
                self.skipped[self.samples.name(other)] = str(error)
        raise DataError(f"{name} and {_MOST_REPLACEMENTS} replacements drawn at random cannot be read; the last: "
                        f"{self.skipped[self.samples.name(other)]}")

    def _decoded(self, index: int, reduction: Optional[Callable[[int, int], int]]) -> np.ndarray:
        return decode_image(self.samples.read(index), self.samples.name(index), reduction)


@DATASETS.register("SwAVMultiCropDataset", context=("seed",))
class SwAVMultiCropDataset(ImageDataset):
    """Random crops of unlabelled images: dataset[(epoch, index)] -> (list of uint8 [S, S, 3] crops, index).

    Parameters
    ----------
    root: a class tree, a flat or nested folder without labels, a list file, or a list of these.
    size_crops, num_crops, min_scale_crops, max_scale_crops: one entry per group of crops: side in pixels, how many,
        and limits of the area share. Small crops make multi-crop cheap: one of 96 pixels costs a fifth of one of 224.
    aspect_ratio: limits of width / height.
    flip_probability ... blur_sigma: see `Photometric`; jitter_strength multiplies brightness, contrast, saturation
        and hue together (0.5 for 32-pixel images).
    mean, std: per-channel normalisation, applied on the device; 0.228 is the original's own value for red.
    image_errors: "error" or "skip".
    size_dataset: use the first N files only; -1 uses all.
    """

    def __init__(self, root: Union[str, List[str]], size_crops: List[int], num_crops: List[int],
                 min_scale_crops: List[float], max_scale_crops: List[float],
                 aspect_ratio: Sequence[float] = (3 / 4, 4 / 3), flip_probability: float = 0.5,
                 jitter_probability: float = 0.8, jitter_strength: float = 1.0, brightness: float = 0.8,
                 contrast: float = 0.8, saturation: float = 0.8, hue: float = 0.2, grayscale_probability: float = 0.2,
                 blur_probability: float = 0.5, blur_sigma: Sequence[float] = (0.1, 2.0),
                 mean: Sequence[float] = (0.485, 0.456, 0.406), std: Sequence[float] = (0.228, 0.224, 0.225),
                 image_errors: ImageErrors = "error", size_dataset: int = -1, seed: int = 0):
        _check_groups({"size_crops": size_crops, "num_crops": num_crops, "min_scale_crops": min_scale_crops,
                       "max_scale_crops": max_scale_crops})
        for name, value in (("flip_probability", flip_probability), ("jitter_probability", jitter_probability),
                            ("grayscale_probability", grayscale_probability), ("blur_probability", blur_probability)):
            if not 0 <= value <= 1:
                raise DataError(f"{name} is {value}; a probability lies between 0 and 1")
        for name, value in (("jitter_strength", jitter_strength), ("brightness", brightness), ("contrast", contrast),
                            ("saturation", saturation)):
            if value < 0:
                raise DataError(f"{name} is {value}; a strength is at least 0 (0 changes nothing)")
        if len(aspect_ratio) != 2 or not 0 < aspect_ratio[0] <= aspect_ratio[1]:
            raise DataError(f"aspect_ratio is {list(aspect_ratio)}; expected the smallest and the largest width / "
                            "height, both above 0")
        if len(blur_sigma) != 2 or not 0 < blur_sigma[0] <= blur_sigma[1]:
            raise DataError(f"blur_sigma is {list(blur_sigma)}; expected two standard deviations in pixels, "
                            "smallest first")
        if not 0 <= hue * jitter_strength <= 0.5:
            raise DataError(f"hue x jitter_strength is {hue * jitter_strength}; a hue shift lies between 0 and 0.5 "
                            "(half the circle)")
        if size_dataset < 1 and size_dataset != -1:
            raise DataError(f"size_dataset is {size_dataset}; a number of files from 1, or -1 for all")
        samples = find_image_files(root, labelled=False)
        super().__init__(samples if size_dataset < 0 else samples.first(size_dataset), image_errors, seed)
        photometric = Photometric(flip_probability, jitter_probability, brightness * jitter_strength,
                                  contrast * jitter_strength, saturation * jitter_strength, hue * jitter_strength,
                                  grayscale_probability, blur_probability, (blur_sigma[0], blur_sigma[1]))
        self.transform = MultiCrop(tuple(size_crops), tuple(num_crops), tuple(zip(min_scale_crops, max_scale_crops)),
                                   (aspect_ratio[0], aspect_ratio[1]), photometric)
        self.normalization = (tuple(mean), tuple(std))

    def __getitem__(self, entry: Tuple[int, int]):
        epoch, index = entry
        image, used = self.read(epoch, index, self.transform.reduction)
        return self.transform(image, stream_key(self.seed, epoch, index)), used


def _check_groups(groups: Mapping[str, Sequence]) -> None:
    lengths = {name: len(values) for name, values in groups.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        given = ", ".join(f"{name} {list(values)}" for name, values in groups.items())
        raise DataError(f"crop groups need one entry each in all four lists, got {given}")
    for size, count, low, high in zip(*groups.values()):
        if size < 1 or count < 1:
            raise DataError(f"size_crops {size} with num_crops {count}: both must be at least 1")
        if not 0 < low <= high <= 1:
            raise DataError(f"crop scale [{low}, {high}] must satisfy 0 < min_scale_crops <= max_scale_crops <= 1 "
                            "(shares of the image's area)")


class LabelledDataset(ImageDataset):
    """dataset[(epoch, index)] -> (uint8 [H, W, 3] image, label, index), after the transform list of the config."""

    def __init__(self, samples: ImageFiles, transform: Optional[list], image_errors: ImageErrors, seed: int):
        super().__init__(samples, image_errors, seed)
        self.transform = ImageTransform(transform or [])
        self.normalization = self.transform.normalization

    def __getitem__(self, entry: Tuple[int, int]):
        epoch, index = entry
        image, used = self.read(epoch, index, self.transform.reduction)
        return self.transform(image, Stream(self.seed, epoch, index)), int(self.labels[used]), used


@DATASETS.register("ImageFolder", context=("seed",))
class ImageFolder(LabelledDataset):
    """One sub-folder per class; labels number the sorted folder names.

    root: the folder, or several folders whose classes are merged by name, or `path label` list files.
    """

    def __init__(self, root: Union[str, List[str]], transform: Optional[list] = None,
                 image_errors: ImageErrors = "error", seed: int = 0):
        super().__init__(find_image_files(root, labelled=True), transform, image_errors, seed)


@DATASETS.register("ImageNetDataset", context=("seed",), legacy={
    "class_num": "the label list tells", "multi_label": "only single labels are supported"})
class ImageNetDataset(LabelledDataset):
    """PaddleClas layout: `cls_label_path` holds `path label` lines, paths relative to `image_root`."""

    def __init__(self, image_root: str, cls_label_path: str, transform: Optional[list] = None,
                 image_errors: ImageErrors = "error", seed: int = 0):
        super().__init__(labelled_list(image_root, cls_label_path), transform, image_errors, seed)


@DATASETS.register("FewShotDataset", context=("seed",))
class FewShotDataset(LabelledDataset):
    """The part of a class tree that a SimCLR-style list names (1 % and 10 % of ImageNet, paper section 4.2).

    txt_file_name: one bare file name a line; the class is the text before the first underscore and the file is
    `<root>/<class>/<name>`. Labels count all classes of `root`.
    """

    def __init__(self, root: str, txt_file_name: str, transform: Optional[list] = None,
                 image_errors: ImageErrors = "error", seed: int = 0):
        super().__init__(few_shot_list(root, txt_file_name), transform, image_errors, seed)
