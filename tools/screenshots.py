"""`make screenshots`: the pictures of the report page in README.md and docs/report.md, taken in a headless browser.

    python tools/screenshots.py --folder quickstart [--page REPORT.html]

Shows the network and the held-out pictures of `make quickstart`, cuts of two photographs that scikit-learn ships.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import List, Optional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.browser import Browser  # noqa: E402

SECTIONS = {"clusters": False, "map": True}  # and whether it is taken in dark colours
SIZE = (1240, 860)


def main(arguments: Optional[List[str]] = None) -> int:
    """Entry point of `make screenshots`."""
    parser = argparse.ArgumentParser(prog="screenshots", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("quickstart"), help="of make quickstart: %(default)s")
    parser.add_argument("--page", type=Path, help="a report that is there already; default: it is made")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", help="folder: %(default)s")
    options = parser.parse_args(arguments)
    page = options.page
    if page is None:
        from passl.cli.report import main as report

        page = options.folder / "report.html"
        run, pictures = next((options.folder / "output").glob("*_pretrain")), options.folder / "data" / "val"
        status = report([str(run), str(pictures), "--output", str(page)])
        if status:
            return status
    for section, dark in SECTIONS.items():
        print(take(page, section, dark, options.output / f"report_{section}.webp"))
    return 0


def take(page: Path, section: str, dark: bool, path: Path) -> Path:
    """Write what a browser shows of one section as WebP."""
    from PIL import Image

    with Browser(SIZE, dark) as browser:
        browser.open(page.resolve().as_uri())
        browser.run("new Promise(done => { const look = () => document.body.dataset.ready ? setTimeout(done, 500) :"
                    " setTimeout(look, 20); look(); })")
        browser.run("document.documentElement.style.scrollBehavior = 'auto'; "
                    f"document.getElementById('h-{section}').scrollIntoView()")
        if section == "map":  # the largest cluster is marked
            browser.run("document.querySelector('.card .foot button').click();"
                        f"document.getElementById('h-{section}').scrollIntoView()")
        browser.run("new Promise((done) => setTimeout(done, 500))")
        taken = browser.picture(path.with_suffix(".png"))
    with Image.open(taken) as picture:
        picture.convert("RGB").save(path, quality=80, method=6)
    taken.unlink()
    return path


if __name__ == "__main__":
    sys.exit(main())
