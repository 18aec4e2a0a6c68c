"""Shows an emulated board in `kiln monitor` and a browser: [SECONDS] [EVENTS A SECOND]

Counts events that were lost on the way to the page, and measures the memory of both. Ends with 1 if
one was lost, or if Kiln's memory grew.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from kiln.emulator.board import EmulatedBoard
from kiln.emulator.firmware import Camera
from scripts.watch import machine
from tests.support.emulated_models import MODEL
from tests.support.two_people import TwoPeople

SECONDS, EVENTS_A_SECOND = 60, 30
#: Makes images of some 30 kB, ten times what a board can send at 921,600 baud and that rate.
NOISE = 4000
#: Until the buffers and caches are full, memory grows anyway.
WARM_UP_S = 10
#: What the interpreter's allocator may still take in a minute.
MOST_GROWTH_MIB = 3.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True)
class Sample:
    """Memory of Kiln and of the page's JavaScript, in MiB."""

    kiln: float
    page: float


def main() -> None:
    """Run it, print the figures."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    fps = float(sys.argv[2]) if len(sys.argv) > 2 else float(EVENTS_A_SECOND)
    chromium = shutil.which("chromium") or sys.exit("no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--enable-precise-memory-info"]
        )
        well = soak(browser, seconds, fps)
        browser.close()
    sys.exit(not well)


def soak(browser: Browser, seconds: int, fps: float) -> bool:
    """Run for so long; True if nothing was lost and nothing grew."""
    model = TwoPeople(browser, noise=NOISE)
    board = EmulatedBoard(model, camera=Camera(fps=fps))
    board.load(MODEL)
    with board:
        command = [sys.executable, "-m", "kiln", "monitor", "--port", board.port, "--no-open"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as kiln:
            assert kiln.stdout is not None
            page = browser.new_page()
            page.goto(kiln.stdout.readline().strip())
            page.wait_for_selector("body[data-drawn]")
            samples = [sample(kiln.pid, page) for _ in range(seconds)]
            page.keyboard.press(" ")
            board.wait_until(lambda each: not each.invoking)
            page.wait_for_selector("body[data-connection=paused]")
            shown = {name: number(page, name) for name in ("events", "lost", "skipped")}
            kiln.send_signal(signal.SIGINT)
        print(machine(Path.cwd()))
        return report(model.frames_taken, shown, samples, kiln.returncode)


def report(frames: int, shown: dict[str, int], samples: Sequence[Sample], code: int) -> bool:
    """Print the figures; True if nothing was lost, nothing grew, and Kiln ended well."""
    late = len(samples) // 4
    first, last = samples[WARM_UP_S : WARM_UP_S + late], samples[-late:]
    before, after = (statistics.median(each.kiln for each in part) for part in (first, last))
    print(
        f"{frames} events in {len(samples)} s; {shown['events']} shown, {shown['lost']} lost on "
        f"the line, {shown['skipped']} skipped by the browser"
    )
    print(f"Kiln's memory: {before:.1f} MiB at first, {after:.1f} MiB at the end")
    pages = [max(each.page for each in part) for part in (first, last)]
    print(f"the page's memory at most: {pages[0]:.1f} MiB at first, {pages[1]:.1f} MiB at the end")
    whole = shown == {"events": frames, "lost": 0, "skipped": 0}
    return whole and after - before < MOST_GROWTH_MIB and code == 0


def sample(process: int, page: Page) -> Sample:
    """After a second."""
    time.sleep(1)
    resident = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    heap = page.evaluate("performance.memory.usedJSHeapSize")
    return Sample(resident * _PAGE_BYTES / 2**20, heap / 2**20)


def number(page: Page, name: str) -> int:
    """A count that the page shows."""
    return int(re.sub(r"\D", "", page.locator(f"#{name}").text_content() or ""))


if __name__ == "__main__":
    main()
