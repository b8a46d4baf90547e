from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from passl.data.augment.transforms import ImageTransform
from passl.data.random_streams import Stream
from passl.errors import UnknownComponent, UserError
from passl.registry import TRANSFORMS

EVALUATION = [{"Resize": {"size": 256}}, {"CenterCrop": {"size": 224}}, {"ToTensor": None},
              {"Normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.228, 0.224, 0.225]}}]


def run(entries, image, *stream):
    return ImageTransform(entries)(image, Stream(*stream or (0,)))


@pytest.mark.parametrize("height, width", [(300, 400), (400, 300), (256, 256), (257, 390), (100, 120)])
def test_evaluation_pipeline_equals_pil_exactly(height, width, picture):
    image = np.asarray(Image.fromarray(picture).resize((width, height), Image.BICUBIC))
    short, long = 256, int(256 * max(height, width) / min(height, width))
    size = (short, long) if width <= height else (long, short)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    expected = Image.fromarray(image).resize(size, Image.BILINEAR).crop((left, top, left + 224, top + 224))
    np.testing.assert_array_equal(run(EVALUATION, image), np.asarray(expected))


def test_normalisation_is_left_to_the_device(picture):
    assert ImageTransform(EVALUATION).normalization == ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
    assert ImageTransform([{"ToTensor": None}]).normalization == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("scale", ["1.0/255.0", 1 / 255, None])
def test_normalize_image_takes_fractions(scale):
    mean, std = ImageTransform([{"NormalizeImage": {"scale": scale, "order": "", "mean": [0.5] * 3, "std": [0.25] * 3}},
                                {"ToCHWImage": None}]).normalization
    np.testing.assert_allclose([mean, std], [[0.5] * 3, [0.25] * 3])


def test_normalize_image_without_scaling():
    entry = {"NormalizeImage": {"scale": 1.0, "mean": [127.5] * 3, "std": [51.0] * 3}}
    mean, std = ImageTransform([entry]).normalization
    np.testing.assert_allclose([mean, std], [[0.5] * 3, [0.2] * 3])


@pytest.mark.parametrize("entries, said", [
    ([{"ToTensor": None}, {"Resize": {"size": 8}}], "Resize comes after ToTensor"),
    ([{"Normalize": {}}, {"NormalizeImage": {}}], "normalises twice"),
    ([{"Resize": {"sice": 8}}], r"transform.0: Resize has no parameter 'sice' \(did you mean 'size'\?\)"),
    ([{"Resize": None}], "transform.0: Resize needs size"),
    ([{"Resize": {"size": 8}, "CenterCrop": {"size": 8}}], "expected one transform .* got the keys Resize, CenterCrop"),
    ([{"Resize": {"size": 8, "interpolation": "bilinaer"}}], "interpolation: 'bilinaer' is not one of nearest, bil"),
    ([{"CenterCrop": {"size": [1, 2, 3]}}], "must be a positive number of pixels"),
    ([{"ResizeImage": {}}], "ResizeImage needs size or resize_short"),
    ([{"RandFlipImage": {"flip_code": 0}}], "flip_code: 0 is not one of 1"),
    ([{"ColorJitter": {"hue": 0.6}}], "hue 0.6 must lie between 0 and 0.5"),
    ([{"NormalizeImage": {"scale": "1/0"}}], "'1/0' is not a positive number or a fraction"),
    ([{"Normalize": {"mean": 0.5, "std": [1, 1]}}], "three means and three positive deviations"),
    ([{"RandomResizedCrop": {"size": 8, "scale": [0.5, 0.2]}}], "scale .0.5, 0.2. must be")])
def test_bad_lists_are_explained(entries, said):
    with pytest.raises(UserError, match=said):
        ImageTransform(entries)


@pytest.mark.parametrize("name", ["MAERandCropImage", "TwoViewsTransform", "RandomResizedCropp"])
def test_unknown_transforms(name):
    with pytest.raises(UnknownComponent, match=f"unknown transform '{name}'"):
        ImageTransform([{name: None}])


def test_names_of_passl_are_all_there():
    for name in ("Compose Resize ResizeImage CenterCrop CenterCropImage RandomResizedCrop RandCropImage "
                 "RandomHorizontalFlip RandFlipImage ColorJitter RandomGrayscale SimCLRGaussianBlur RandomApply "
                 "ToTensor ToCHWImage Normalize NormalizeImage DecodeImage").split():
        assert name in TRANSFORMS and isinstance(TRANSFORMS.parameters(name), dict)


def test_linear_probe_training_list(picture):
    entries = [{"RandomResizedCrop": {"size": 224}}, "RandomHorizontalFlip", {"ToTensor": None}]
    first, again, other = (run(entries, picture, 0, epoch, 3) for epoch in (1, 1, 2))
    assert first.shape == (224, 224, 3) and first.dtype == np.uint8
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("entry, probability", [("RandFlipImage", 0.5), ({"RandomHorizontalFlip": {"p": 0.2}}, 0.2),
                                                ({"RandomGrayscale": {"p": 0.3}}, 0.3),
                                                ({"ColorJitter": {"p": 0.7, "contrast": 0.5}}, 0.7),
                                                ({"RandomApply": {"transforms": [{"Resize": {"size": 4}}],
                                                                  "p": 0.4}}, 0.4)])
def test_probabilities(entry, probability):
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    transform = ImageTransform([entry])
    outcomes = [transform(image, Stream(5, index)) for index in range(1200)]
    changed = np.mean([result.shape != image.shape or (result != image).any() for result in outcomes])
    assert abs(changed - probability) < 0.055


def test_resize_image_rounds_and_takes_width_first(picture):
    assert run([{"ResizeImage": {"resize_short": 100}}], picture[:, :334]).shape == (100, 111, 3)
    assert run([{"ResizeImage": {"size": [50, 20], "backend": "cv2"}}], picture).shape == (20, 50, 3)
    assert run([{"Resize": {"size": [50, 20]}}], picture).shape == (50, 20, 3)


def test_centre_crop_pads_small_images_with_black(picture):
    result = run([{"CenterCrop": {"size": 8}}], picture[:4, :6])
    np.testing.assert_array_equal(result[2:6, 1:7], picture[:4, :6])
    assert result.sum() == picture[:4, :6].sum()


def test_compose_and_simclr_list(picture):
    crop = {"RandCropImage": {"size": 32, "scale": [0.2, 1.0]}}
    entries = [{"Compose": {"transforms": [{"DecodeImage": {"to_rgb": True}}, crop]}},
               {"RandomApply": {"transforms": [{"ColorJitter": {"brightness": 0.8, "hue": 0.2}}], "p": 0.8}},
               {"SimCLRGaussianBlur": {"sigma": [0.1, 2.0], "p": 0.5}}, "RandomGrayscale"]
    assert run(entries, picture).shape == (32, 32, 3)


SCALED = [{"DecodeImage": {"scaled": True}}, *EVALUATION]


@pytest.mark.parametrize("height, width, factor", [
    (255, 400, 1), (512, 700, 1), (1023, 1400, 1), (1024, 1400, 2), (4096, 5000, 8), (5000, 9000, 8)])
def test_scaled_decoding_leaves_twice_what_is_wanted(height, width, factor):
    assert ImageTransform(SCALED).reduction(height, width) == factor
    assert ImageTransform(EVALUATION).reduction is None


def test_scaled_decoding_is_exact_for_small_files_and_near_for_large_ones(picture, tmp_path):
    import cv2

    from passl.data.decode import read_image

    scaled, plain = ImageTransform(SCALED), ImageTransform(EVALUATION)
    for side, bound in ((600, 0.0), (2200, 2.0)):  # grey levels, on average; 0.8 on photographs (docs/benchmarks.md)
        path = str(tmp_path / f"{side}.jpg")
        cv2.imwrite(path, cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC))
        found = scaled(read_image(path, scaled.reduction), Stream(0)).astype(int)
        assert np.abs(found - plain(read_image(path), Stream(0))).mean() <= bound
    assert read_image(path, scaled.reduction).shape == (550, 550, 3)


@pytest.mark.parametrize("rest", [[], [{"CenterCrop": {"size": 8}}], [{"RandomResizedCrop": {"size": 8}}]])
def test_scaled_decoding_wants_to_know_the_size(rest):
    with pytest.raises(UserError, match="let Resize or ResizeImage follow it, or set it to False"):
        ImageTransform([{"DecodeImage": {"scaled": True}}, *rest])
