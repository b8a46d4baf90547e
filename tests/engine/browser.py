"""A headless Chromium, driven over its own protocol: what a page has fetched and drawn, for tests of pages."""
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--accept-lang=en",
           "--window-size=1400,1600"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def request(url, body=None):
    """The answer to a GET, or to a POST of `body`; VisualDL's server fails without a language."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Accept-Language": "en", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=120) as answer:
        return answer.read()


def until(ask, seconds=120):
    """The first true answer of `ask`, which may fail to connect before."""
    end = time.monotonic() + seconds
    while True:
        try:
            answer = ask()
            if answer:
                return answer
        except (OSError, urllib.error.URLError):
            pass
        assert time.monotonic() < end, f"no answer within {seconds} seconds"
        time.sleep(0.3)


@contextmanager
def process(*command):
    """A process that runs while the block does."""
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(30)


@contextmanager
def page(url, before=""):
    """A function that runs JavaScript in `url` and gives its value; the script `before` runs ahead of the page's."""
    base = f"http://127.0.0.1:{free_port()}"
    with process(DRIVER, f"--port={base.rpartition(':')[2]}"):
        until(lambda: request(f"{base}/status"))
        wanted = {"alwaysMatch": {"goog:chromeOptions": {"binary": BROWSER, "args": OPTIONS}}}
        answer = json.loads(request(f"{base}/session", {"capabilities": wanted}))
        session = f"{base}/session/{answer['value']['sessionId']}"

        def post(path, **body):
            return json.loads(request(f"{session}/{path}", body))["value"]

        try:
            post("goog/cdp/execute", cmd="Page.addScriptToEvaluateOnNewDocument", params={"source": before})
            post("url", url=url)
            yield lambda script: post("execute/sync", script=script, args=[])
        finally:
            urllib.request.urlopen(urllib.request.Request(session, method="DELETE"), timeout=60).close()
