"""One build as one page: a build's result in, self-contained HTML out.

The page asks for nothing and runs no script. It shows what build.json says; all it adds is order
and wording, so it can be made again at any time from build.json alone, byte for byte. It can show
two things besides: the record of an on-device check, and builds that lie beside a fine-tuned one.
"""

from __future__ import annotations

import dataclasses
import functools

import jinja2

from kiln.report import charts, classes, page, traffic, words
from kiln.report.beside import Beside
from kiln.report.board_record import BoardRecord
from kiln.report.finetuning import finetuning
from kiln.report.images import FONT, annotated_images
from kiln.report.result import BuildResult

#: What the page may load: images that lie in the page itself. It has no scripts to allow.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


#: The report of a build alone, as a release has it.
ALONE = Beside(state="", ways=())


def render(build: BuildResult, record: BoardRecord | None = None, beside: Beside = ALONE) -> str:
    """The report of a build; with ``record`` it also says what a board did with it, with ``beside``
    what other builds of the same network came to."""
    evidence, numbers = build.evidence, build.numbers
    tuned = finetuning(build, beside.ways)
    flash_use = traffic.flash_use(numbers, evidence.operators)
    html = (
        _environment()
        .get_template("page.html")
        .render(
            build=build,
            request=dataclasses.asdict(build.request),
            record=record,
            beside=beside.state,
            tuned=tuned,
            tuning=[charts.curves(panel) for panel in tuned.panels] if tuned else [],
            trades=[charts.accuracy_over_cycles(each) for each in tuned.trades] if tuned else [],
            policy=POLICY,
            scores=page.scores(numbers.accuracy),
            accuracy=page.accuracy_table(numbers.accuracy),
            memory=page.memory(numbers),
            images=annotated_images(evidence),
            image_font=FONT,
            class_figures=classes.class_figures(evidence),
            executed=words.EXECUTED,
            confusion=classes.confusion(evidence),
            curves=[charts.curves(panel) for panel in page.panels(evidence.curves)],
            kept_epoch=page.kept_epoch(build),
            slowest=page.slowest(evidence.operators),
            cycles=charts.cycles(evidence.operators),
            flash_use=flash_use,
            flash_charts=charts.flash_use(flash_use) if flash_use else [],
            placement=page.placement(numbers.operators),
            precision_recall=charts.precision_recall(evidence.precision_recall),
            snr=charts.snr(evidence.layers),
        )
    )
    # A file name that is no UTF-8 reaches build.json as halves of characters.
    return html.encode("utf-8", "replace").decode("utf-8")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kiln.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= words.FILTERS
    return environment
