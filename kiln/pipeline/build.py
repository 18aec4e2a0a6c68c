"""A build: run its plan, judge what comes out, and lay out the result folder."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kiln import __version__
from kiln.errors import DataError, NotAccepted, os_errors
from kiln.executors.environments import Environment
from kiln.executors.protocol import Executor
from kiln.paths import Paths
from kiln.pipeline.agreement import check_agreement
from kiln.pipeline.collect import (
    beyond_budget,
    collect_evidence,
    collect_numbers,
    portable_request,
    step_result,
    unlike_training,
    warnings_of,
)
from kiln.pipeline.events import Message, Observer
from kiln.pipeline.runner import Runner, StepForecast, StepOutcome
from kiln.plan.plan import Plan, needs_host_data
from kiln.plan.request import BuildRequest
from kiln.plan.steps import FINETUNE_FOLDER
from kiln.report.beside import look_beside, state_of
from kiln.report.board_record import read_board_record
from kiln.report.result import (
    BUILD_FILE,
    Board,
    BuildResult,
    EnvironmentFacts,
    ResultFile,
    Verdict,
)
from kiln.store.statindex import StatIndex, tree_at
from kiln.store.tree import File, Tree, digest_of, hash_file, sums_of, tree_of
from kiln.store.usage import Ledger
from kiln.store.verified_read import check_all, copy_checked
from kiln.system.files import locked, write_atomically
from stages.results.check_firmware import CheckFirmwareResult
from stages.results.dataset import Dataset
from stages.results.networks import Network

#: So many bytes of a page hold the state of the builds beside it.
_HEAD = 2000


class Build:
    """One plan in one home. ``choose_executor`` is called only if something must run."""

    def __init__(self, plan: Plan, paths: Paths, choose_executor: Callable[[], Executor]) -> None:
        self.plan = plan
        self.paths = paths
        self._runner = Runner(paths, plan.request.limits, choose_executor)

    @property
    def folder(self) -> Path:
        """Where the result is laid out."""
        return self.paths.result_of(self.plan.target.name, self.plan.name)

    @property
    def environments(self) -> list[Environment]:
        """Those that steps of this build run in."""
        names = sorted({step.environment for step in self.plan.steps})
        return [self._runner.environment(name) for name in names]

    def run(self, observer: Observer) -> BuildResult:
        """Run what is missing and lay out the result folder; raises KilnError."""
        brought = hash_inputs(self.plan.request, self.paths, self._runner)
        judge = functools.partial(self._judge, {})
        outcomes = self._runner.run(self.plan.steps, brought, observer, check=judge)
        if all(outcome.reused for outcome in outcomes.values()):
            observer(Message(text="nothing to do: every step is already made from these inputs"))
        with self._runner.store.trusting():
            return self._lay_out(outcomes)

    def explain(self) -> list[StepForecast]:
        """Say for each step what would run and why; changes nothing."""
        brought = hash_inputs(self.plan.request, self.paths, self._runner)
        return self._runner.explain(self.plan.steps, brought)

    def _judge(self, results: dict[str, Any], outcome: StepOutcome) -> None:
        """Stop as soon as a step has found what does not fit together, or the firmware.

        ``results`` of the steps so far, by their names.
        """
        result = results[outcome.step.name] = outcome.result
        if isinstance(result, Dataset | Network):
            check_agreement(self.plan.request, results.get("check"), results.get("import"))
        if self.plan.request.force:
            return
        if isinstance(result, Dataset | Network):
            self.plan.target.check_classes(self.plan.request.task, result.nc)
        if isinstance(result, CheckFirmwareResult) and not result.accepted:
            verdict = Verdict.of(result, forced=False)
            raise NotAccepted(self.plan.target.firmware.name, verdict.refusals)

    def _lay_out(self, outcomes: Mapping[str, StepOutcome]) -> BuildResult:
        plan = self.plan
        files = {name: outcomes[ref.step].entry.files[ref.path] for name, ref in plan.files.items()}
        shown = {
            name: outcomes[ref.step].entry.files[ref.path] for name, ref in plan.evidence.items()
        }
        check_all(shown.values())
        warnings = [warning for outcome in outcomes.values() for warning in warnings_of(outcome)]
        result = BuildResult(
            kiln=__version__,
            name=plan.name,
            target=plan.target.name,
            board=Board.of(plan.target, plan.request.camera.mode),
            imgsz=plan.imgsz,
            task=plan.request.task,
            request=portable_request(plan.request),
            environments={each.name: _facts(each) for each in self.environments},
            steps=tuple(step_result(outcome) for outcome in outcomes.values()),
            files={
                name: ResultFile(sha256=file.sha256, bytes=file.size)
                for name, file in files.items()
            },
            deployed=plan.deployed,
            verdict=Verdict.of(outcomes["check-firmware"].result, forced=plan.request.force),
            numbers=collect_numbers(outcomes),
            evidence=collect_evidence(outcomes, {name: each.path for name, each in shown.items()}),
            warnings=(
                *warnings,
                *unlike_training(outcomes),
                *beyond_budget(outcomes, plan.request.finetune),
            ),
        )
        index = self._runner.store.index_folder / f"result-{_file_name(self.folder)}.json"
        with os_errors("cannot write the result"):
            self.folder.mkdir(parents=True, exist_ok=True)
            # No two drivers lay out the same result at once.
            with locked(self.folder):
                write_result(self.folder, result, files, index=index)
                keys = (outcome.recipe.key for outcome in outcomes.values())
                Ledger(self.paths.store).record(self.folder, keys)
        return result


def hash_inputs(request: BuildRequest, paths: Paths, runner: Runner) -> dict[str, Tree]:
    """Hash what the user brought: data set, weights, images; raises DataError, StoreError."""
    brought: dict[str, Tree] = {}
    index_folder = runner.store.index_folder
    if needs_host_data(request):
        # Only a data set of the user's own needs YAML, which costs 40 ms to import.
        from kiln.pipeline.class_folders import load_class_folders
        from kiln.pipeline.dataset import load_dataset

        assert request.data is not None
        source = Path(request.data)
        load = load_class_folders if request.task == "classify" else load_dataset
        data = load(
            source,
            index=index_folder / f"data-{_file_name(source)}.json",
            scratch=paths.home / "descriptions",
        )
        brought["data"] = data.tree
    if request.weights_file is not None:
        brought["weights"] = hash_file_input(request.weights_file, runner)
    if request.finetune_folder is not None:
        brought[FINETUNE_FOLDER] = hash_images(request.finetune_folder, runner)
    return brought


def hash_file_input(path: Path, runner: Runner) -> Tree:
    """Hash one file of the user's."""
    with StatIndex(runner.store.index_folder / f"file-{_file_name(path)}.json") as known:
        return tree_of(known.files({"": path}))


def hash_images(folder: Path, runner: Runner) -> Tree:
    """Hash the images below a folder of the user's; raises DataError if there is none."""
    from kiln.pipeline.dataset import walk_images

    with os_errors(f"cannot read {folder}", DataError):
        paths = {path.removeprefix(f"{folder}{os.sep}"): path for path in walk_images(folder)}
        if not paths:
            raise DataError(f"there is no image in {folder}", hint="see [finetune] folder")
        index = runner.store.index_folder / f"images-{_file_name(folder)}.json"
        return tree_at(paths, {}, index=index)


def write_result(
    folder: Path, result: BuildResult, files: Mapping[str, File], *, index: Path
) -> None:
    """Copy what is not there yet; write report.html, build.json, SHA256SUMS; raises OSError."""
    with StatIndex(index) as known:
        places = {name: folder / name for name in files}
        there = known.files({name: path for name, path in places.items() if path.is_file()})
        for name, file in files.items():
            if name not in there or there[name].sha256 != file.sha256:
                copy_checked(file, places[name])
        text = json.dumps(result.document(), indent=2, ensure_ascii=False) + "\n"
        # The report first: it is made again unless build.json, written after it, is the same.
        if not _is_shown(folder, text, state_of(result, folder)):
            write_report(folder, result)
        write_atomically(folder / BUILD_FILE, text)
        sums = sums_of({name: file.sha256 for name, file in result.files.items()})
        write_atomically(folder / "SHA256SUMS", sums)


def write_report(folder: Path, result: BuildResult) -> Path:
    """Make report.html of a build, with what a board measured of this very model if it was;
    raises StoreError.
    """
    # Drawing takes longer to import than a build that has nothing to do.
    from kiln.report.render import render

    page = folder / "report.html"
    with os_errors("cannot write the report"):
        record = read_board_record(folder, result.deployed_file.sha256)
        write_atomically(page, render(result, record, look_beside(result, folder)))
    return page


def _facts(environment: Environment) -> EnvironmentFacts:
    return EnvironmentFacts(
        digest=environment.digest,
        base=environment.base,
        lock_sha256=hash_file(environment.lock),
    )


def _is_shown(folder: Path, text: str, beside: str) -> bool:
    """True if a report is there and was made from this very text of build.json, and beside other
    builds in this very state."""
    document, page = folder / BUILD_FILE, folder / "report.html"
    if not (document.is_file() and page.is_file()):
        return False
    with page.open("rb") as stream:
        head = stream.read(_HEAD)
    return beside.encode() in head and document.read_text(encoding="utf-8") == text


def _file_name(path: Path) -> str:
    """A short name for an index of what lies at a path."""
    return digest_of(str(path))[:16]
