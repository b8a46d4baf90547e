"""VisualDL's page in a real browser: a run that was resumed twice is one line with every step once."""
import json
import sys

import pytest

from tests.engine import browser
from tests.engine.test_visualdl_file import go

STEPS = 14
# Keeps what the page fetches, and of every line that it strokes the horizontal places of its points.
WATCH = """
window.fetched = {};
window.lines = [];
const fetchBefore = window.fetch;
window.fetch = async (...given) => {
  const answer = await fetchBefore(...given);
  answer.clone().text().then(text => { window.fetched[answer.url] = text; });
  return answer;
};
const canvas = CanvasRenderingContext2D.prototype;
const around = (name, act) => {
  const before = canvas[name];
  canvas[name] = function (...given) { act(this, given); return before.apply(this, given); };
};
around('beginPath', context => { context.points = []; });
around('moveTo', (context, [x]) => { context.points = [x]; });
around('lineTo', (context, [x]) => { (context.points = context.points || []).push(x); });
around('stroke', context => { window.lines.push(context.points || []); });
"""
OPEN = """
const found = [...document.querySelectorAll('*')].filter(one => !one.children.length && one.innerText === 'train_loss');
found.forEach(one => one.click());
return found.length;
"""


@pytest.mark.skipif(not (browser.DRIVER and browser.BROWSER),
                    reason="no browser: needs chromium and chromedriver (Debian's chromium and chromium-driver)")
def test_the_page_shows_one_whole_curve_of_a_run_resumed_twice(tmp_path):
    for start, stop, end in ((0, 7, True), (5, 10, False), (8, STEPS, True)):
        go(tmp_path, start, stop, end=end, name="vdl/SwAV")
    site = f"http://127.0.0.1:{browser.free_port()}"
    serve = "from visualdl.server.app import main; main()"
    with browser.process(sys.executable, "-c", serve, "--logdir", str(tmp_path / "vdl"), "--host", "127.0.0.1",
                         "--port", site.rpartition(":")[2]):
        browser.until(lambda: browser.request(f"{site}/app/api/runs"))
        with browser.page(f"{site}/app/scalar", WATCH) as script:
            browser.until(lambda: script(OPEN))  # the page opens one group of curves by itself

            def lists():
                return [text for url, text in script("return window.fetched").items()
                        if "/scalar/list" in url and url.endswith("train_loss")]

            text, = browser.until(lists)
            curve = browser.until(lambda: [line for line in script("return window.lines") if len(line) >= STEPS])[0]
    assert [point[1] for point in json.loads(text)["data"]] == list(range(STEPS))  # wall time, step, value
    assert len(curve) == STEPS and curve == sorted(set(curve))  # never backwards, as a doubled step would lead it
