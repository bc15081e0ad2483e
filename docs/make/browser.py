"""Look at pages of the site in a real browser: ``python docs/make/browser.py site out/site-check``.

Five pages at the width of a telephone and of a desk; exit status 1 where one is wider than its window, a picture is missing or
the console has an error.  Needs Debian's chromium and ``pip install playwright``.
"""

from __future__ import annotations

import functools
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PAGES = ("", "concepts/", "samplers/rvv/", "diffusions/psld/", "which-tables/")
WIDTHS = (390, 1280)
# What sticks out on the right without a box of its own that scrolls, and pictures without pixels.
WIDER = "document.documentElement.scrollWidth - window.innerWidth"
BROKEN = "[...document.images].filter(image => !image.naturalWidth).map(image => image.src)"


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        return


def faults(page: Page, address: str, width: int, picture: Path) -> list[str]:
    """What is wrong with a page at a width; its picture is written."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(address, wait_until="networkidle")
    page.screenshot(path=picture)
    found = [f"the console says: {text}" for text in said]
    if (wider := page.evaluate(WIDER)) > 0:
        found.append(f"it is {wider} pixels wider than its window")
    return found + [f"a picture is missing: {source}" for source in page.evaluate(BROKEN)]


def main(site: Path, out: Path) -> int:
    """The number of faults."""
    out.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    count = 0
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for path in PAGES:
            for width in WIDTHS:
                page = browser.new_page()
                name = path.strip("/").replace("/", "-") or "start"
                for fault in faults(page, f"http://127.0.0.1:{server.server_port}/{path}", width, out / f"{name}-{width}.png"):
                    print(f"{path or '/'} at {width}: {fault}")
                    count += 1
                page.close()
    print(f"{len(PAGES)} pages at {len(WIDTHS)} widths, {count} faults; pictures in {out}")
    return count


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])) > 0)
