"""Takes a screenshot of a report: FILE.png REPORT.html

Maintainers make README's image with it, from a real build, in the host's Chromium.

    .kiln/dev/bin/python -m scripts.report_screenshot docs/report.png build/…/report.html
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1120, 1180


def main() -> None:
    """Open the page as on a desk, and keep its top."""
    image, report = sys.argv[1:]
    chromium = shutil.which("chromium") or sys.exit("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(Path(report).absolute().as_uri())
        page.screenshot(path=image)
        browser.close()


if __name__ == "__main__":
    main()
