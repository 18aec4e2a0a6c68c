"""Everything that Kiln prints: results on stdout, the rest on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kiln.cli.progress import StepBars, TransferBar
from kiln.errors import KilnError, RequestError
from kiln.pipeline.runner import StepForecast
from kiln.plan.step import Step
from kiln.plan.targets import Target
from kiln.report.board_record import Proof
from kiln.report.result import METRICS, BuildResult, Usage, Verdict
from kiln.store.store import Entry
from kiln.system.files import shown_bytes

if TYPE_CHECKING:
    from kiln.cli.doctor import Finding
    from kiln.cli.gc import Removal
    from kiln.pipeline.inspect import Inspection
    from kiln.release.verify import Release, Verification
    from kiln.report.compare import Comparison

_STYLES: Mapping[str, str] = {"✓": "green", "✕": "red", "=": "dim", "!": "yellow", "▸": "bold"}

#: Without a terminal, a long step shows that it lives.
_SECONDS_A_LINE = 15.0


class Terminal:
    """The one place that writes to the terminal; also the observer of a build."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        # A pipe has no width: lines stay whole for whoever reads them.
        self._out = Console(highlight=False, width=None if sys.stdout.isatty() else 240)
        self._err = Console(
            stderr=True, highlight=False, width=None if sys.stderr.isatty() else 1000
        )
        self._bars = StepBars(self._err)
        self._started: dict[str, float] = {}
        self._last_line: dict[str, float] = {}
        self._warned: set[str] = set()

    # Results

    def json(self, value: object) -> None:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def line(self, value: object) -> None:
        """One of many, as JSON on a line of its own, at once."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def result(self, text: str) -> None:
        self._out.print(escape(_plain(text)))

    def proved(self, proof: Proof) -> None:
        """What a board does with a model: every check, and the time beside the estimate."""
        for check in proof.checks:
            expected = "" if check.ok else f", expected {check.expected}"
            mark = "✓" if check.ok else "✕"
            self._mark(mark, f"{check.title}: {check.figure}{expected}", out=True)
        estimate = "" if proof.estimated_ms is None else f", {proof.estimated_ms:.1f} estimated"
        self._out.print(
            f"speed     {proof.inference_ms:g} ms measured on board{estimate}; "
            f"{proof.preprocess_ms:g} ms before it and {proof.postprocess_ms:g} ms after it"
        )
        for warning in proof.warnings:
            self._warning(warning, "")

    def build_done(self, result: BuildResult, folder: str) -> None:
        """The end of a build: files, memory against the board, speed and accuracy."""
        if result.did_nothing:
            self.say("nothing to do: every step is already made from these inputs")
        self._out.print(f"[bold]{escape(folder)}/[/]")
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(overflow="fold")
        table.add_column(justify="right", no_wrap=True)
        for name, (_sha256, size) in result.files.items():
            table.add_row(escape(f"  {name}"), _kib(size / 1024))
        self._out.print(table)
        self._verdict(result.verdict, result.board["firmware"])
        for line in _figures(result):
            self._out.print(line)
        self._out.print(f"[dim]report    {escape(folder)}/report.html[/]")
        for warning in result.warnings:
            self._warning(warning["message"], warning["hint"])

    def inspected(self, found: Inspection) -> None:
        """What a file is, whether the board would take it, and how accurate it is."""
        self._out.print(f"[bold]{escape(found.file)}[/] is {escape(found.model['what'])}")
        table = Table(box=None, pad_edge=False)
        for title in ("", "tensor", "shape", "type", "scale", "zero point", "read as"):
            table.add_column(title, overflow="fold")
        for kind, tensors in (
            ("in", [found.model["input"]]),
            ("out", found.model["outputs"]),
        ):
            for tensor in tensors:
                table.add_row(kind, *_tensor(tensor))
        self._out.print(table)
        self._verdict(found.verdict, found.firmware)
        lines = [
            _usage("flash", found.flash),
            _usage("SRAM", found.sram),
            f"operators {_placed(found.model['operators'])}",
        ]
        if found.accuracy is not None:
            (artifact,) = found.accuracy["artifacts"].values()
            lines.append(f"accuracy  {_maps(artifact)} on {found.accuracy['images']} pictures")
        for line in lines:
            self._out.print(line)
        for warning in found.warnings:
            self._warning(warning["message"], warning["hint"])

    def released(self, path: str, sha256: str, warnings: Sequence[Mapping[str, str]]) -> None:
        """A release, by the digest under which another host can be compared with this one."""
        self._out.print(f"[bold]{escape(path)}[/]")
        self._out.print(f"sha256    {sha256}")
        for warning in warnings:
            self._warning(warning["message"], warning["hint"])

    def opened(self, release: Release) -> None:
        """A release before it is built again: whole, and by whom."""
        self._mark("✓", f"{release.name}: all {len(release.files)} files are as SHA256SUMS says")
        if release.signer is None:
            self._mark("!", "the release is not signed")
        elif release.known:
            self._mark("✓", f"signed by {release.signer}")
        else:
            self._mark(
                "!", f"signed by {release.signer}, whom you have not named (pass PUBLIC_KEY=)"
            )

    def verified(self, found: Verification) -> None:
        """Each file: the same again, taken as it is, or since which step it differs and how."""
        for file in found.files:
            if file.taken:
                self._mark("=", f"{file.name}: taken as it is ({file.taken})", out=True)
            elif file.same:
                self._mark("✓", f"{file.name}: identical", out=True)
            else:
                self._mark("✕", f"{file.name}: differs since the step {file.step}", out=True)
                self._out.print(f"  {escape(file.how)}")
        for title in found.figures:
            self._mark("!", f"{title}: other figures than the release's report shows", out=True)

    def ask_secret(self, what: str) -> str:
        """A passphrase from the terminal, never shown; raises RequestError without one."""
        if not sys.stdin.isatty():
            raise RequestError(
                f"the {what} is needed, and there is no terminal to ask on",
                hint="use a key without a passphrase here",
            )
        return self._err.input(f"{what}: ", password=True)

    def compared(self, found: Comparison) -> None:
        """Two builds side by side, and what differs in their recipes."""
        for title, rows in (("figures", found.figures), ("recipes", found.differences)):
            if not rows:
                self._out.print("the recipes are the same")
                continue
            table = Table(box=None, pad_edge=False)
            for heading in (title, found.left, found.right):
                table.add_column(escape(heading), overflow="fold")
            if title == "figures":
                table.add_column("change", overflow="fold")
            for row in rows:
                cells = [row.name, row.left, row.right, row.change]
                table.add_row(*(escape(cell) for cell in cells[: len(table.columns)]))
            self._out.print(table)

    def _verdict(self, verdict: Verdict, firmware: str) -> None:
        """Each check that failed in red, or one line in green."""
        if verdict.accepted:
            self._mark("✓", f"accepted by {firmware} ({len(verdict.checks)} checks)", out=True)
            return
        self._mark("✕", f"NOT ACCEPTED by {firmware}:", out=True)
        for line in verdict.refusals:
            self._out.print(f"  [red]{escape(line)}[/]")

    def forecasts(self, forecasts: Sequence[StepForecast]) -> None:
        table = Table(box=None, pad_edge=False)
        for title in ("step", "would run", "why"):
            table.add_column(title, overflow="fold")
        for forecast in forecasts:
            table.add_row(
                forecast.step, "yes" if forecast.runs else "no", escape(forecast.why or "made")
            )
        self._out.print(table)

    def targets(self, targets: Sequence[Target]) -> None:
        table = Table(box=None, pad_edge=False)
        for title in ("target", "board", "tasks", "NPU", "arena KiB", "model room KiB"):
            table.add_column(title, overflow="fold")
        for target in targets:
            table.add_row(
                target.name,
                target.title,
                ", ".join(target.tasks),
                target.vela.accelerator if target.vela else "none",
                str(target.firmware.arena_kib),
                str(target.flash.model_bytes // 1024),
            )
        self._out.print(table)

    def findings(self, findings: Sequence[Finding]) -> None:
        """What doctor found."""
        for finding in findings:
            self._mark("✓" if finding.well else "✕", f"{finding.name}: {finding.found}", out=True)
            if finding.advice:
                self._out.print(f"  {escape(finding.advice)}")

    def removed(self, removal: Removal, *, dry_run: bool) -> None:
        """What gc removes, and why."""
        doing = "would remove" if dry_run else "removed"
        size = shown_bytes(removal.bytes)
        self._out.print(escape(f"{doing} {removal.what} ({size}): {removal.why}"))

    def swept(self, freed: int, notes: Sequence[str], *, dry_run: bool) -> None:
        """The end of gc: how much went, and what stays for what reason."""
        for note in notes:
            self._mark("▸", note)
        doing = "would free" if dry_run else "freed"
        done = f"{doing} {shown_bytes(freed)}" if freed else "nothing to remove"
        self._mark("✓", done, out=True)

    # Errors

    def error(self, error: KilnError) -> None:
        self._bars.stop_all()
        self._mark("✕", error.message)
        if error.hint:
            self._err.print(f"  {escape(error.hint)}")
        if error.log is not None:
            self._err.print(f"  log: {escape(str(error.log))}")

    # A build, live

    def say(self, message: str, /) -> None:
        self._mark("▸", message)

    def transfer(self) -> TransferBar:
        """What shows how far a transfer to a board is."""
        return TransferBar(self._err, _SECONDS_A_LINE)

    def done(self, message: str) -> None:
        """What was asked for is done."""
        self._mark("✓", message, out=True)

    def step_reused(self, step: Step) -> None:
        self._mark("=", f"{step.title} (already made)")

    def step_started(self, step: Step, why: str) -> None:
        self._started[step.name] = self._last_line[step.name] = time.monotonic()
        self._bars.start(step.name, step.title)
        if not self._bars.live:
            self._mark("▸", f"{step.title}: {why}")

    def step_event(self, step: Step, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "progress":
                done, total = float(event["done"]), float(event["total"])
                self._progress(step, done, total, str(event["unit"]))
            case "metric" if event["name"] in ("box/map50", "pose/map50"):
                self._bars.note(step.name, f"{METRICS[event['name']]} {event['value']:.3f}")
            case "device":
                self._bars.note(step.name, str(event["name"]))
            case "warning":
                self._warning(event["message"], event.get("hint", ""))

    def step_log(self, step: Step, line: str) -> None:
        if self._verbose:
            self._err.print(f"[dim]{step.name}:[/] {escape(line)}")

    def step_finished(self, step: Step, entry: Entry) -> None:
        self._bars.stop(step.name)
        self._mark("✓", f"{step.title}  {_seconds(entry.seconds)}")

    def step_failed(self, step: Step) -> None:
        self._bars.stop(step.name)
        self._mark("✕", f"{step.title}  {_seconds(time.monotonic() - self._started[step.name])}")

    def _progress(self, step: Step, done: float, total: float, unit: str) -> None:
        """A bar on a terminal; elsewhere a line now and then, or each one with -v."""
        count = f"{_count(done)} of {_count(total)} {unit}"
        self._bars.advance(step.name, done, total, count)
        now = time.monotonic()
        late = now - self._last_line[step.name] > _SECONDS_A_LINE
        if not self._bars.live and (self._verbose or late):
            self._last_line[step.name] = now
            self._err.print(f"  {escape(step.title)}: {count}")

    def _warning(self, message: str, hint: str) -> None:
        """Once each, though a step says it live and the result repeats it."""
        if message not in self._warned:
            self._warned.add(message)
            self._mark("!", message + (f" ({hint})" if hint else ""))

    def _mark(self, sign: str, message: str, *, out: bool = False) -> None:
        console = self._out if out else self._err
        console.print(f"[{_STYLES[sign]}]{sign}[/] {escape(_plain(message))}")


def _plain(text: str) -> str:
    """Names come from data sets and files: what would steer the terminal is shown as a code."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def _figures(result: BuildResult) -> list[str]:
    numbers = result.numbers
    lines = [_usage("flash", numbers.flash), _usage("SRAM", numbers.sram)]
    if numbers.estimated_ms is not None:
        lines.append(
            f"speed     {numbers.estimated_ms:.1f} ms estimated by {numbers.estimator} "
            f"({numbers.cycles:,} cycles)"
        )
    lines.append(f"operators {_placed(numbers.operators)}")
    accuracy = numbers.accuracy
    lines.append(
        f"accuracy  {_maps(accuracy.artifacts['int8'])} (int8, {accuracy.images} pictures)"
    )
    if accuracy.drop:
        lost = ", ".join(
            f"{METRICS[name]} {-points:+.1f}" for name, points in accuracy.drop.items()
        )
        lines.append(f"          against fp32: {lost} points")
    return lines


def _placed(operators: Mapping[str, Any]) -> str:
    """How many operators run where; given by place, as a number or by type."""
    return ", ".join(
        f"{count if isinstance(count, int) else sum(count.values())} on the {place.upper()}"
        for place, count in operators.items()
        if count is not None
    )


def _maps(artifact: Mapping[str, float | None]) -> str:
    known = {title: artifact.get(name) for name, title in METRICS.items()}
    shown = [f"{title} {value:.3f}" for title, value in known.items() if value is not None]
    return ", ".join(shown) or "not measured: nothing is labelled"


def _tensor(tensor: Mapping[str, Any]) -> list[str]:
    scale = "" if tensor["scale"] is None else f"{tensor['scale']:.6g}"
    shape = "x".join(str(side) for side in tensor["shape"])
    point = "" if tensor["zero_point"] is None else str(tensor["zero_point"])
    cells = [tensor["name"], shape, tensor["dtype"], scale, point, tensor.get("role") or ""]
    return [escape(cell) for cell in cells]


def _usage(name: str, usage: Usage) -> str:
    share = usage.used_kib / usage.limit_kib
    colour = "green" if usage.fits else "bold red"
    return f"{name:<9} [{colour}]{_kib(usage.used_kib)}[/] of {_kib(usage.limit_kib)} ({share:.0%})"


def _count(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def _kib(kib: float) -> str:
    return f"{kib:,.1f} KiB"


def _seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes else f"{seconds:.1f}s"
