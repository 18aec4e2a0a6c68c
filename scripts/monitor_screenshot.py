"""Takes a screenshot of the monitor's page: FILE.png [WIDTH HEIGHT [dark]]

Maintainers make the image in docs/ with it, from the emulated board with the demo's model.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WIDTH, HEIGHT = 1000, 850
#: The charts need some time to fill.
_CHARTS_MS = 20_000
#: In percent: the demo's model was trained for minutes, and its scores are low.
_SCORE = "40"
_TWO_PEOPLE = """() => [...document.querySelectorAll('#found b')]
  .filter((each) => parseInt(each.textContent) >= 65).length >= 2"""
_PEOPLE_MS = 60_000


def main() -> None:
    """Open the page in a window, and wait for a frame with several people."""
    file, *rest = sys.argv[1:]
    width, height = (int(each) for each in rest[:2]) if rest else (WIDTH, HEIGHT)
    chromium = shutil.which("chromium") or sys.exit("no Chromium: apt-get install chromium")
    command = [sys.executable, "-m", "kiln", "monitor", "--demo", "--no-open"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as kiln,
        sync_playwright() as playwright,
    ):
        assert kiln.stdout is not None
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if "dark" in rest else "light",
        )
        page.goto(kiln.stdout.readline().strip())
        wait_for_people(page)
        page.screenshot(path=file, full_page=width < WIDTH)
        browser.close()
        kiln.send_signal(signal.SIGINT)
    print(f"{file}: {Path(file).stat().st_size / 1024:.0f} KiB")


def wait_for_people(page: Page) -> None:
    """Set the threshold, and stop at a frame with people in it."""
    page.wait_for_selector("body[data-drawn]")
    page.get_by_label("Score").fill(_SCORE)
    # The focus would be visible.
    page.get_by_label("Score").blur()
    page.wait_for_timeout(_CHARTS_MS)
    page.wait_for_function(_TWO_PEOPLE, timeout=_PEOPLE_MS)


if __name__ == "__main__":
    main()
