"""The loop: for each step of a plan look it up, else run it and publish what it gave."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kiln import __version__
from kiln.environments import Environment, EnvironmentName, load_environment
from kiln.errors import KilnError, os_errors
from kiln.executors import Executor, Limits, StepRun
from kiln.failures import StepListener, failure_of
from kiln.plan import FromHost, Plan, Step, needs_host_data
from kiln.result import (
    BuildResult,
    StepResult,
    mismatched_data,
    numbers_of,
    request_document,
    sums_text,
    unknown_operators,
)
from kiln.sources import sources_digest
from kiln.statindex import StatIndex
from kiln.store import Entry, Miss, Recipe, Store
from kiln.tree import File, Tree, digest_of, hash_file, tree_of
from kiln.workplace import Workplace
from stages.contract import CONTRACT_VERSION


class Observer(Protocol):
    """Hears a build live."""

    def say(self, message: str, /) -> None: ...

    def step_reused(self, step: Step) -> None: ...

    def step_started(self, step: Step, why: str) -> None: ...

    def step_event(self, event: Mapping[str, Any]) -> None: ...

    def step_log(self, step: Step, line: str) -> None: ...

    def step_finished(self, step: Step, entry: Entry) -> None: ...

    def step_failed(self, step: Step) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlook:
    """What ``kiln explain`` says of one step: would it run, and why."""

    step: str
    title: str
    runs: bool
    why: str
    key: str | None


class Build:
    """One plan at one workplace. ``choose_executor`` is called only if something must run."""

    def __init__(
        self, plan: Plan, place: Workplace, choose_executor: Callable[[], Executor]
    ) -> None:
        self.plan = plan
        self.place = place
        self._choose_executor = choose_executor
        self._executor: Executor | None = None
        self._store = Store(place.store)
        self._environments = {
            name: load_environment(place.root, name)
            for name in sorted({step.environment for step in plan.steps})
        }
        self._brought: dict[str, Tree] = {}

    def run(self, observer: Observer) -> BuildResult:
        """Run what is missing and lay out the result folder; raises KilnError."""
        self._store.open()
        self._brought = self._load_brought()
        entries: dict[str, Entry] = {}
        steps: list[StepResult] = []
        for step in self.plan.steps:
            recipe, inputs = self._recipe(step, entries)
            found = self._store.lookup(recipe)
            reused = isinstance(found, Entry)
            if isinstance(found, Entry):
                observer.step_reused(step)
            else:
                found, reused = self._make(step, recipe, inputs, found, observer)
            entries[step.name] = found
            steps.append(_step_result(step, recipe, found, reused=reused))
            self._check_classes(found)
        return self._lay_out(entries, steps)

    def explain(self) -> list[Outlook]:
        """Say for each step what would run and why; changes nothing."""
        self._brought = self._load_brought()
        entries: dict[str, Entry] = {}
        outlooks: list[Outlook] = []
        for step in self.plan.steps:
            waits_for = [
                source.step
                for source in step.inputs.values()
                if not isinstance(source, FromHost) and source.step not in entries
            ]
            if waits_for:
                why = f"needs what {waits_for[0]} gives, which would run"
                outlooks.append(_outlook(step, why=why, key=None))
                continue
            recipe, _inputs = self._recipe(step, entries)
            found = self._store.lookup(recipe)
            if isinstance(found, Miss):
                outlooks.append(_outlook(step, why=found.reason, key=recipe.key))
            else:
                entries[step.name] = found
                outlooks.append(_outlook(step, why="", key=recipe.key))
        return outlooks

    def _load_brought(self) -> dict[str, Tree]:
        """Hash what the user brought."""
        brought: dict[str, Tree] = {}
        request = self.plan.request
        if needs_host_data(request):
            # Only a data set of the user's own needs YAML, which costs 40 ms to import.
            from kiln.dataset import load_dataset

            assert request.data is not None
            source = Path(request.data)
            data = load_dataset(
                source,
                index=self._store.index_folder / f"data-{_file_name(source)}.json",
                scratch=self.place.home / "descriptions",
            )
            brought["data"] = data.tree
        if request.weights_file is not None:
            path = request.weights_file
            index = self._store.index_folder / f"weights-{_file_name(path)}.json"
            with StatIndex(index) as known:
                brought["weights"] = tree_of(known.files({"": path}))
        return brought

    def _recipe(self, step: Step, entries: Mapping[str, Entry]) -> tuple[Recipe, dict[str, Tree]]:
        inputs = {
            name: self._brought[source.source]
            if isinstance(source, FromHost)
            else entries[source.step].tree(source.path)
            for name, source in step.inputs.items()
        }
        recipe = Recipe(
            step=step.module,
            contract=CONTRACT_VERSION,
            sources=sources_digest(self.place.root, step.module),
            environment=self._environments[step.environment].digest,
            params=step.params,
            inputs={name: tree.digest for name, tree in inputs.items()},
        )
        return recipe, inputs

    def _make(
        self,
        step: Step,
        recipe: Recipe,
        inputs: Mapping[str, Tree],
        miss: Miss,
        observer: Observer,
    ) -> tuple[Entry, bool]:
        """Run a step under its lock; another driver may have made it meanwhile."""
        if miss.damaged:
            observer.say(f"{step.name}: {miss.reason}; making it again")
        executor = self._ready_executor(step, observer)

        def waiting() -> None:
            observer.say(f"{step.name}: another Kiln is making this step; waiting for it")

        with self._store.making(recipe.key, waiting):
            found = self._store.lookup(recipe)
            if isinstance(found, Entry):
                observer.step_reused(step)
                return found, True
            observer.step_started(step, miss.reason)
            try:
                entry = self._run_step(step, recipe, inputs, executor, observer)
            except BaseException:
                observer.step_failed(step)
                raise
            observer.step_finished(step, entry)
            return entry, False

    def _run_step(
        self,
        step: Step,
        recipe: Recipe,
        inputs: Mapping[str, Tree],
        executor: Executor,
        observer: Observer,
    ) -> Entry:
        log = self.place.log_of(step.name, recipe.key)
        limits = self.plan.request.limits
        started = time.monotonic()
        with self._store.workspace() as workspace, StepListener(log, step, observer) as listener:
            run = StepRun(
                key=recipe.key,
                step=step.name,
                module=step.module,
                environment=self._environments[step.environment],
                params=step.params,
                inputs=inputs,
                out=workspace / "out",
                network=step.network,
                gpu=step.gpu,
                resumable=step.resumable,
                limits=Limits(memory_mib=limits.memory_mib, timeout_s=limits.timeout_s),
            )
            try:
                ended = executor.run(run, listener)
            except KilnError as error:
                error.log = error.log or log
                raise
            if ended.code != 0 or listener.result is None:
                raise failure_of(step, ended, listener)
            if ended.facts.get("gpu_requested") and listener.device == "cpu":
                # Some engines take the request and say nothing; only the step can tell.
                listener.warn(
                    "the engine was asked for a GPU and the step saw none: it ran on the CPU",
                    hint="check the engine's NVIDIA container toolkit; GPU=required fails instead",
                )
            return self._store.publish(
                workspace,
                recipe,
                result=listener.result,
                warnings=tuple(listener.warnings),
                seconds=round(time.monotonic() - started, 3),
                facts={
                    **ended.facts,
                    "executor": executor.name,
                    "peak_memory_mib": listener.peak_memory_mib,
                },
            )

    def _ready_executor(self, first: Step, observer: Observer) -> Executor:
        """Choose once, and make every environment from here on: a late failure costs most."""
        if self._executor is None:
            self._executor = self._choose_executor()
            steps = self.plan.steps[self.plan.steps.index(first) :]
            names: Sequence[EnvironmentName] = list(dict.fromkeys(s.environment for s in steps))
            wanted: list[Environment] = [self._environments[name] for name in names]
            self._executor.prepare(wanted, observer.say)
        return self._executor

    def _check_classes(self, entry: Entry) -> None:
        """The firmware's word on the number of classes, as soon as it is known."""
        count = entry.result.get("nc")
        if isinstance(count, int):
            self.plan.target.check_classes(self.plan.request.task, count)

    def _lay_out(self, entries: Mapping[str, Entry], steps: list[StepResult]) -> BuildResult:
        plan = self.plan
        files = {name: entries[ref.step].files[ref.path] for name, ref in plan.files.items()}
        listed = {name: (file.sha256, file.size) for name, file in files.items()}
        by_name = {step.name: step for step in steps}
        numbers = numbers_of(plan, by_name, files)
        warnings = [warning for step in steps for warning in step.warnings]
        warnings += mismatched_data(plan, by_name) + unknown_operators(plan, numbers)
        result = BuildResult(
            kiln=__version__,
            name=plan.name,
            target=plan.target.name,
            imgsz=plan.imgsz,
            request=request_document(plan),
            environments={
                name: {
                    "digest": environment.digest,
                    "base": environment.base,
                    "lock_sha256": hash_file(environment.lock),
                }
                for name, environment in self._environments.items()
            },
            steps=tuple(steps),
            files=listed,
            numbers=numbers,
            warnings=tuple(warnings),
        )
        folder = self.place.results / plan.target.name / plan.name
        index = self._store.index_folder / f"result-{_file_name(folder)}.json"
        write_result(folder, result, files, index=index)
        return result


def write_result(
    folder: Path, result: BuildResult, files: Mapping[str, File], *, index: Path
) -> None:
    """Copy what is not there yet, and write build.json and SHA256SUMS; raises StoreError."""
    with os_errors("cannot write the result"), StatIndex(index) as known:
        folder.mkdir(parents=True, exist_ok=True)
        places = {name: folder / name for name in files}
        there = known.files({name: path for name, path in places.items() if path.is_file()})
        for name, file in files.items():
            if name not in there or there[name].sha256 != file.sha256:
                temporary = folder / f".{name}.part"
                shutil.copyfile(file.path, temporary)
                temporary.replace(places[name])
        text = json.dumps(result.document(), indent=2, ensure_ascii=False) + "\n"
        _write(folder / "build.json", text)
        _write(folder / "SHA256SUMS", sums_text(result.files))


def _file_name(path: Path) -> str:
    """A short name for an index of what lies at a path."""
    return digest_of(str(path))[:16]


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _step_result(step: Step, recipe: Recipe, entry: Entry, *, reused: bool) -> StepResult:
    return StepResult(
        name=step.name,
        title=step.title,
        key=recipe.key,
        reused=reused,
        seconds=entry.seconds,
        params=step.params,
        inputs=recipe.inputs,
        outputs={name: file.sha256 for name, file in entry.files.items()},
        result=entry.result,
        warnings=entry.warnings,
        facts=entry.facts,
    )


def _outlook(step: Step, *, why: str, key: str | None) -> Outlook:
    return Outlook(step=step.name, title=step.title, runs=bool(why), why=why, key=key)
