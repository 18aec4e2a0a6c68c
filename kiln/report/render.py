"""One build as one page: build.json in, self-contained HTML out.

The page asks for nothing and runs no script. It shows what build.json says; all it adds is order
and wording, so it can be made again at any time from build.json alone, byte for byte; the
record of an on-device check is the one thing that it can show besides.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jinja2

from kiln.report import charts, page, words
from kiln.report.board_record import BoardRecord
from kiln.report.images import FONT, pictures

#: What the page may load: pictures that lie in the page itself. It has no scripts to allow.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(document: Mapping[str, Any], record: BoardRecord | None = None) -> str:
    """The report of a build, from the content of its build.json (format 2).

    With ``record`` it also says what a board was found to do with the model.
    What a document lacks, since the step that makes it was not run, the page says in words.
    """
    build = page.completed(document)
    html = (
        _environment()
        .get_template("page.html")
        .render(
            build=build,
            record=record,
            policy=POLICY,
            scores=page.scores(build),
            accuracy=page.accuracy(build),
            memory=page.memory(build),
            pictures=pictures(build["evidence"]),
            picture_font=FONT,
            curves=[charts.curves(panel) for panel in page.panels(build["evidence"]["curves"])],
            kept_epoch=page.kept_epoch(build),
            slowest=page.slowest(build["evidence"]["operators"]),
            cycles=charts.cycles(build["evidence"]["operators"]),
            placement=page.placement(build["numbers"]["operators"]),
            precision_recall=charts.precision_recall(build["evidence"]["precision_recall"]),
            snr=charts.snr(build["evidence"]["layers"]),
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
