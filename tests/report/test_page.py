"""The page as a file: nothing of a name is markup, sizes keep their limit, numbers arrive as they were."""
import base64
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from passl.errors import UserError
from passl.report.page import write_page
from passl.report.page.assemble import HERE, packed, showable
from passl.report.thumbnails import encode, fit_into
from tests.report.pages import HOSTILE, report, thumbnail


class Reader(HTMLParser):
    """Tags with their attributes, and the text of every script by its id."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.open = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open = dict(attributes).get("id", "script") if tag == "script" else None

    def handle_data(self, data):
        if self.open:
            self.scripts[self.open] = self.scripts.get(self.open, "") + data


def read(path):
    return Reader(path.read_text(encoding="utf-8"))


def test_names_come_back_and_add_no_markup(tmp_path):
    hostile = report(HOSTILE, classes=("<i>a</i>", HOSTILE[0]), title=HOSTILE[0])
    plain = report([f"{row}.jpg" for row in range(len(HOSTILE))], classes=("a", "b"))
    pages = [read(write_page(one, tmp_path / f"{number}.html")) for number, one in enumerate((hostile, plain))]
    assert [tag for tag, _ in pages[0].tags] == [tag for tag, _ in pages[1].tags]
    assert not [name for _, attributes in pages[0].tags for name in attributes if name.startswith("on")]
    data = json.loads(pages[0].scripts["data"])
    assert data["names"] == HOSTILE and data["classes"] == ["<i>a</i>", HOSTILE[0]]


def test_the_page_asks_for_nothing_and_runs_one_script(tmp_path):
    page = read(write_page(report([f"{row}.jpg" for row in range(9)]), tmp_path / "page.html"))
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; img-src data:;") and policy.count("sha256-") == 1
    addresses = [value for _, attributes in page.tags for name, value in attributes.items()
                 if name in ("src", "href", "xlink:href", "action") and not value.startswith("#")]
    assert addresses == ["data:,"]


@pytest.mark.parametrize("name, shown", [
    ("a.jpg", "a.jpg"), ("\u202egpj.exe", "\\u202egpj.exe"), ("a\nb", "a\\u000ab"), ("\udcff", "\\xff"),
    ("\ufeff", "\\ufeff"),
    ("图\U0001f600", "图\U0001f600")])
def test_what_is_invisible_is_shown(name, shown):
    assert showable(name) == shown


def test_numbers_arrive_as_they_were():
    values = np.array([0, 1, 70000, -3])
    found = packed(values, "i4")
    assert np.frombuffer(base64.b64decode(found["bytes"]), "<i4").tolist() == values.tolist()


def test_every_text_has_both_languages_and_is_used():
    texts = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
    used = "".join((HERE / name).read_text(encoding="utf-8") for name in ("page.html", "page.js"))
    prefixes = set(re.findall(r'"(\w+_)"', used)) | set(re.findall(r'data-t="(\w+_)\{', used))
    for key, pair in texts.items():
        assert len(pair) == 2 and all(pair), key
        assert re.findall(r"\{(\w+)\}", pair[0]) == re.findall(r"\{(\w+)\}", pair[1]) or sorted(
            re.findall(r"\{(\w+)\}", pair[0])) == sorted(re.findall(r"\{(\w+)\}", pair[1])), key
        assert f'"{key}"' in used or any(key.startswith(prefix) for prefix in prefixes), key


def test_size_stays_below_the_limit(tmp_path):
    many = report([f"{row:05d}.jpg" for row in range(3000)], clusters=20, exact=False)
    noise = np.random.default_rng(0).integers(0, 256, (20, 96, 96, 3)).astype(np.uint8)
    many.thumbnails = [encode(noise[row % 20], 96) for row in range(3000)]
    assert sum(map(len, many.thumbnails)) > 5e6
    tight = write_page(many, tmp_path / "tight.html", megabytes=4)
    assert 3e6 < tight.stat().st_size <= 4e6
    ends = json.loads(read(tight).scripts["ends"])
    assert len(ends) == 3000 and (np.diff(ends) >= 0).all()
    with pytest.raises(UserError, match="without any picture"):
        write_page(many, tmp_path / "none.html", megabytes=0.1)
    with pytest.raises(UserError, match="en and zh"):
        write_page(many, tmp_path / "none.html", language="fr")


def test_pictures_in_a_folder_beside_the_page(tmp_path):
    few = report([f"{row}.jpg" for row in range(9)])
    page = write_page(few, tmp_path / "page.html", folder=True)
    found = sorted((tmp_path / "page_pictures").iterdir())
    assert [one.read_bytes() for one in found] == few.thumbnails
    assert "data-folder=\"page_pictures\"" in page.read_text(encoding="utf-8")


def test_thumbnails_fit_and_those_shown_first_are_larger():
    noise = np.random.default_rng(0).integers(0, 256, (40, 96, 96, 3)).astype(np.uint8)
    whole = [encode(picture, 96) for picture in noise]
    assert fit_into(whole, [1], sum(map(len, whole)), 96) == whole
    sides = []
    for share in (0.6, 0.3, 0.1, 0.01):
        fitted = fit_into(whole, [5, 3], int(share * sum(map(len, whole))), 96)
        assert sum(map(len, fitted)) <= share * sum(map(len, whole))
        sides.append([max(cv2.imdecode(np.frombuffer(one, np.uint8), 1).shape) if one else 0 for one in fitted])
        assert sides[-1][5] >= max(side for row, side in enumerate(sides[-1]) if row not in (3, 5))
    assert sides[0][5] == 96 and sides[0][0] < 96 and sides[-1].count(0) > 20
    assert fit_into([], [], 100, 96) == [] and fit_into([b"", thumbnail(1)], [], 1, 96) == [b"", b""]
