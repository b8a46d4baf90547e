from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from passl.data.decode import decode_image, read_image
from passl.errors import DataError


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_exif_rotation(array: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    return encoded(Image.fromarray(array), "JPEG", exif=exif)


KINDS = {
    "jpeg": lambda a: encoded(Image.fromarray(a), "JPEG"),
    "jpeg progressive": lambda a: encoded(Image.fromarray(a), "JPEG", progressive=True),
    "jpeg 4:4:4": lambda a: encoded(Image.fromarray(a), "JPEG", subsampling=0),
    "jpeg grayscale": lambda a: encoded(Image.fromarray(a).convert("L"), "JPEG"),
    "jpeg cmyk": lambda a: encoded(Image.fromarray(a).convert("CMYK"), "JPEG"),
    "jpeg with exif rotation": with_exif_rotation,
    "png": lambda a: encoded(Image.fromarray(a), "PNG"),
    "png grayscale": lambda a: encoded(Image.fromarray(a).convert("L"), "PNG"),
    "png palette": lambda a: encoded(Image.fromarray(a).convert("P"), "PNG"),
    "png with alpha": lambda a: encoded(Image.fromarray(np.dstack([a, a[..., 0]])), "PNG"),
    "png one bit": lambda a: encoded(Image.fromarray(a).convert("1"), "PNG"),
    "gif": lambda a: encoded(Image.fromarray(a), "GIF"),
    "bmp": lambda a: encoded(Image.fromarray(a), "BMP"),
    "tiff": lambda a: encoded(Image.fromarray(a), "TIFF"),
    "webp": lambda a: encoded(Image.fromarray(a), "WEBP"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_equal_pil(kind, picture):
    data = KINDS[kind](picture[:101, :67])
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    result = decode_image(data)
    assert result.dtype == np.uint8 and result.flags.c_contiguous and result.flags.writeable
    # JPEG libraries of different vintage round differently by one or two levels; everything else is exact.
    assert np.abs(result.astype(int) - expected).max() <= (2 if kind.startswith("jpeg") else 0)


def test_exif_orientation_is_not_applied(picture):
    assert decode_image(with_exif_rotation(picture[:40, :60])).shape == (40, 60, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    values = np.linspace(0, 65535, 60, dtype=np.uint16).reshape(6, 10)
    result = decode_image(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(result[..., 0], np.rint(values / 257.0))
    assert (result == result[..., :1]).all()


@pytest.mark.parametrize("values, expected", [
    (np.linspace(0, 1, 60, dtype=np.float32), lambda v: np.rint(v * 255)),
    (np.linspace(0, 255, 60, dtype=np.float32), np.rint),
    (np.linspace(0, 255, 60).astype(np.int32), lambda v: v),
    (np.linspace(0, 65535, 60).astype(np.int32), lambda v: np.rint(v / 257.0))], ids=["0..1", "0..255", "int", "int16"])
def test_grey_values_of_many_bits_are_brought_to_eight(values, expected):
    result = decode_image(encoded(Image.fromarray(values.reshape(6, 10)), "TIFF"))
    np.testing.assert_array_equal(result[..., 0], expected(values.reshape(6, 10)))


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0.0, 300.0], [0.0, np.nan]])
def test_grey_values_on_no_known_scale_are_refused(values):
    picture = Image.fromarray(np.array([values], np.float32))
    with pytest.raises(DataError, match="depth.tif: grey values from .* expected 0..1, 0..255 or 0..65535"):
        decode_image(encoded(picture, "TIFF"), "depth.tif")


def test_truncated_jpeg_is_refused_at_any_cut(picture):
    data = encoded(Image.fromarray(picture), "JPEG")
    for length in (3, 20, 200, len(data) // 2, len(data) - 50):
        with pytest.raises(DataError, match="cut.jpg"):
            decode_image(data[:length], "cut.jpg")


@pytest.mark.parametrize("data, said", [(b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "damaged|not an image"),
                                        (b"this is text", "not an image .* b'this is '")])
def test_other_garbage_is_refused(data, said):
    with pytest.raises(DataError, match=f"bad.png: ({said})"):
        decode_image(data, "bad.png")


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(DataError, match="empty.jpg: the file is empty"):
        read_image(str(tmp_path / "empty.jpg"))
    with pytest.raises(DataError, match="gone.jpg: cannot be read .No such file"):
        read_image(str(tmp_path / "gone.jpg"))


def test_truncated_png_is_refused(picture):
    data = encoded(Image.fromarray(picture), "PNG")
    with pytest.raises(DataError, match="damaged image"):
        decode_image(data[:len(data) // 2])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("jpeg")])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_jpeg_files_can_be_read_reduced(kind, factor, picture):
    array = picture[:168, :104]
    asked = []

    def reduction(height, width):
        asked.append((height, width))
        return factor

    result = decode_image(KINDS[kind](array), reduction=reduction)
    if kind == "jpeg cmyk":  # PIL reads it, whole
        assert result.shape == array.shape and not asked
        return
    assert asked == [(168, 104)] and result.shape == (168 // factor, 104 // factor, 3)
    expected = np.asarray(Image.fromarray(decode_image(KINDS[kind](array))).reduce(factor), int)
    assert np.abs(result - expected).mean() < 4


def test_sides_of_a_reduced_image_are_rounded_up(picture):
    assert decode_image(KINDS["jpeg"](picture[:101, :67]), reduction=lambda height, width: 4).shape == (26, 17, 3)


def test_other_formats_are_read_whole(picture):
    assert decode_image(KINDS["png"](picture), reduction=lambda height, width: 4).shape == picture.shape


# ------------------------------------------------------------------------------------- damaged, too large, too dark
def with_thumbnail(array: np.ndarray, thumbnail: bytes) -> bytes:
    """A JPEG file with a thumbnail in its EXIF segment, as cameras write it."""
    data = encoded(Image.fromarray(array), "JPEG", quality=95)
    segment = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail
    return data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]


def test_a_file_cut_after_its_thumbnail_is_damaged(picture):
    """The thumbnail has an end marker, which is not that of the picture."""
    thumbnail = encoded(Image.fromarray(picture[:60, :80]), "JPEG")
    data = with_thumbnail(picture, thumbnail)
    np.testing.assert_array_equal(decode_image(data), decode_image(
        encoded(Image.fromarray(picture), "JPEG", quality=95)))
    end = data.index(thumbnail) + len(thumbnail)
    for length in (end - 1, end, end + 4, end + 300, end + 700, 2 * end - 8, len(data) - 2):
        with pytest.raises(DataError, match="cut.jpg: (damaged|not an) image"):
            decode_image(data[:length], "cut.jpg")
        with pytest.raises(DataError, match="cut.jpg: (damaged|not an) image"):  # read beyond it, but cut behind
            decode_image(data[:length] + thumbnail[len(thumbnail) // 2:-2], "cut.jpg")


@pytest.mark.parametrize("kind", ["jpeg", "jpeg progressive", "jpeg 4:4:4", "jpeg grayscale", "jpeg cmyk", "png", "gif",
                                  "webp", "avif", "jpeg best"])
def test_what_was_downloaded_in_part_is_damaged(kind, picture):
    """Downloaders make the file in its whole size first; what did not come stays zero."""
    if kind == "avif" and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow cannot write AVIF")
    more = {"avif": lambda a: encoded(Image.fromarray(a), "AVIF"),
            "jpeg best": lambda a: encoded(Image.fromarray(a), "JPEG", quality=100, subsampling=0)}
    data = {**KINDS, **more}[kind](picture)
    for share in (0.3, 0.5, 0.7, 0.9):
        length = round(share * len(data))
        with pytest.raises(DataError, match="half: damaged image"):
            decode_image(data[:length] + bytes(len(data) - length), "half")
    assert decode_image(data).shape == picture.shape


def test_what_follows_a_whole_jpeg_is_not_judged(picture):
    data = KINDS["jpeg"](picture)
    for more in (bytes(len(data) // 2), bytes(3 * len(data)), b"ftypmp42" * len(data), KINDS["jpeg"](picture[:40])):
        assert np.abs(decode_image(data + more).astype(int) - decode_image(data)).max() <= 2


@pytest.fixture
def two_thousand_pixels(monkeypatch):
    """A limit that small files reach; PIL's own is 179 megapixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)


@pytest.mark.parametrize("kind", ["jpeg", "jpeg cmyk", "png", "tiff", "webp", "gif"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_above_the_limit_is_too_large_and_not_damaged(kind, picture, two_thousand_pixels):
    assert decode_image(KINDS[kind](picture[:40, :50])).shape == (40, 50, 3)
    with pytest.raises(DataError, match=r"big: too large for the limit of 0 megapixels .*PASSL_MAX_MEGAPIXELS=1"):
        decode_image(KINDS[kind](picture[:41, :50]), "big")


def test_the_limit_is_raised_by_the_environment(picture, monkeypatch, two_thousand_pixels):
    from passl.data import decode

    data = KINDS["png"](picture)
    monkeypatch.setenv("PASSL_MAX_MEGAPIXELS", "0.2")
    decode._limit_wanted.cache_clear()
    assert decode_image(data).shape == picture.shape
    monkeypatch.setenv("PASSL_MAX_MEGAPIXELS", "many")
    decode._limit_wanted.cache_clear()
    with pytest.raises(ValueError, match="PASSL_MAX_MEGAPIXELS is 'many'"):
        decode_image(data)
    monkeypatch.delenv("PASSL_MAX_MEGAPIXELS")
    decode._limit_wanted.cache_clear()


def png_of_sixteen_bit_colours(values: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", values)[1].tobytes()


@pytest.mark.parametrize("make, dark", [
    (lambda top: encoded(Image.fromarray(np.linspace(0, top, 60).astype(np.uint16).reshape(6, 10)), "PNG"), 4095),
    (lambda top: encoded(Image.fromarray(np.linspace(0, top, 60).astype(np.uint16).reshape(6, 10)), "TIFF"), 4095),
    (lambda top: encoded(Image.fromarray(np.linspace(0, top, 60).astype(np.int32).reshape(6, 10)), "TIFF"), 4095),
    (lambda top: png_of_sixteen_bit_colours(np.full([6, 10, 3], top, np.uint16)), 3840)],
    ids=["png", "tiff", "int32", "colours"])
def test_sixteen_bits_that_fill_a_sixteenth_of_the_range_are_said_once(make, dark, caplog, monkeypatch):
    from passl.data import decode

    monkeypatch.setattr(decode, "_told_of_dark", [])
    decode_image(make(5000), "fine.png")
    assert not caplog.messages
    decode_image(make(dark), "dark.png")
    decode_image(make(dark), "again.png")
    message, = caplog.messages
    assert message.startswith("dark.png: a 16-bit image whose largest value is") and "nearly black" in message
