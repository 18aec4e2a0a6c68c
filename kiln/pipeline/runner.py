"""Runs steps as their inputs are there: found in the store, or made and published."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kiln.errors import KilnError
from kiln.executors.environments import Environment, EnvironmentName, load_environment
from kiln.executors.protocol import STEP_VARIABLES, Executor, Limits, StepExit, StepRun
from kiln.paths import Paths
from kiln.pipeline.step_log import StepListener, failure_of
from kiln.plan.request import LimitSettings
from kiln.plan.step import FromHost, Step
from kiln.plan.steps import read_result
from kiln.store.sources import sources_digest
from kiln.store.store import Entry, Miss, Recipe, Store
from kiln.store.tree import Tree, digest_of
from kiln.store.usage import Ledger
from kiln.system.workers import Workers, cores
from stages.contract import CONTRACT_VERSION

#: Each step is a program with hundreds of megabytes of its own.
_MOST_AT_ONCE = 4


class Observer(Protocol):
    """Hears a build live. Steps may run at the same time; they speak one after the other."""

    def say(self, message: str, /) -> None: ...

    def step_reused(self, step: Step) -> None: ...

    def step_started(self, step: Step, why: str) -> None: ...

    def step_event(self, step: Step, event: Mapping[str, Any]) -> None: ...

    def step_log(self, step: Step, line: str) -> None: ...

    def step_finished(self, step: Step, entry: Entry) -> None: ...

    def step_failed(self, step: Step) -> None: ...


class _OneAtATime:
    """An observer that several threads may speak to."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._lock = threading.Lock()

    def say(self, message: str, /) -> None:
        with self._lock:
            self._observer.say(message)

    def step_reused(self, step: Step) -> None:
        with self._lock:
            self._observer.step_reused(step)

    def step_started(self, step: Step, why: str) -> None:
        with self._lock:
            self._observer.step_started(step, why)

    def step_event(self, step: Step, event: Mapping[str, Any]) -> None:
        with self._lock:
            self._observer.step_event(step, event)

    def step_log(self, step: Step, line: str) -> None:
        with self._lock:
            self._observer.step_log(step, line)

    def step_finished(self, step: Step, entry: Entry) -> None:
        with self._lock:
            self._observer.step_finished(step, entry)

    def step_failed(self, step: Step) -> None:
        with self._lock:
            self._observer.step_failed(step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepForecast:
    """What ``kiln explain`` says of one step: would it run, and why."""

    step: str
    title: str
    runs: bool
    why: str
    key: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """A step that is done: what it was made from, what it gave, and whether it was there."""

    step: Step
    recipe: Recipe
    entry: Entry
    reused: bool

    @functools.cached_property
    def result(self) -> Any:
        """What the step gave: its own record of ``stages.results``."""
        return read_result(self.step.name, self.entry.result, "entry.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """A step that must run, and why."""

    step: Step
    recipe: Recipe
    inputs: Mapping[str, Tree]
    miss: Miss


class Runner:
    """Runs steps at one default_paths. ``choose_executor`` is called only if something must run."""

    def __init__(
        self, paths: Paths, limits: LimitSettings, choose_executor: Callable[[], Executor]
    ) -> None:
        self.store = Store(paths.store)
        self._ledger = Ledger(paths.store)
        self._paths = paths
        self._limits = limits
        self._at_once = limits.steps or min(cores(), _MOST_AT_ONCE)
        self._choose_executor = choose_executor
        self._executor: Executor | None = None
        self._environments: dict[EnvironmentName, Environment] = {}
        self._prepared: set[EnvironmentName] = set()

    def environment(self, name: EnvironmentName) -> Environment:
        """What defines an environment, read once."""
        if name not in self._environments:
            self._environments[name] = load_environment(self._paths.root, name)
        return self._environments[name]

    def run(
        self,
        steps: Sequence[Step],
        brought: Mapping[str, Tree],
        observer: Observer,
        judge: Callable[[StepOutcome], None],
    ) -> dict[str, StepOutcome]:
        """Run what is missing, each step when its inputs are there and a core is free for it.

        ``judge`` hears of each as it is done, and may raise. The first failure gives up what
        runs beside it. Raises KilnError.
        """
        self.store.open()
        observer = _OneAtATime(observer)
        done: dict[str, StepOutcome] = {}
        left = list(steps)
        with Workers[StepOutcome]() as workers:
            while left or workers.busy:
                step = next((each for each in left if _is_ready(each, done)), None)
                if step is None or workers.busy == self._at_once:
                    made = workers.next()
                else:
                    left.remove(step)
                    recipe, inputs = self._recipe(step, brought, done)
                    found = self.store.lookup(recipe)
                    if not isinstance(found, Entry):
                        job = _Job(step=step, recipe=recipe, inputs=inputs, miss=found)
                        executor = self._ready_executor([step, *left], observer)
                        workers.start(functools.partial(self._make, job, executor, observer))
                        continue
                    self._ledger.mark_used(recipe.key)
                    observer.step_reused(step)
                    made = StepOutcome(step=step, recipe=recipe, entry=found, reused=True)
                done[made.step.name] = made
                judge(made)
        return {step.name: done[step.name] for step in steps}

    def explain(self, steps: Sequence[Step], brought: Mapping[str, Tree]) -> list[StepForecast]:
        """Say for each step what would run and why; changes nothing."""
        done: dict[str, StepOutcome] = {}
        forecasts: list[StepForecast] = []
        for step in steps:
            waits_for = [
                source.step
                for source in step.inputs.values()
                if not isinstance(source, FromHost) and source.step not in done
            ]
            if waits_for:
                why = f"needs what {waits_for[0]} gives, which would run"
                forecasts.append(_forecast(step, why=why, key=None))
                continue
            recipe, _inputs = self._recipe(step, brought, done)
            found = self.store.lookup(recipe)
            if isinstance(found, Entry):
                done[step.name] = StepOutcome(step=step, recipe=recipe, entry=found, reused=True)
                forecasts.append(_forecast(step, why="", key=recipe.key))
            else:
                forecasts.append(_forecast(step, why=found.reason, key=recipe.key))
        return forecasts

    def _recipe(
        self, step: Step, brought: Mapping[str, Tree], done: Mapping[str, StepOutcome]
    ) -> tuple[Recipe, dict[str, Tree]]:
        inputs = {
            name: brought[source.source]
            if isinstance(source, FromHost)
            else done[source.step].entry.tree(source.path)
            for name, source in step.inputs.items()
        }
        recipe = Recipe(
            step=step.module,
            contract=CONTRACT_VERSION,
            sources=sources_digest(self._paths.root, step.module),
            environment=digest_of([self.environment(step.environment).digest, STEP_VARIABLES]),
            params=step.params,
            inputs={name: tree.digest for name, tree in inputs.items()},
        )
        return recipe, inputs

    def _make(self, job: _Job, executor: Executor, observer: Observer) -> StepOutcome:
        """Run a step under its lock; another driver may have made it meanwhile."""
        step, recipe = job.step, job.recipe
        if job.miss.damaged:
            observer.say(f"{step.name}: {job.miss.reason}; making it again")

        def waiting() -> None:
            observer.say(f"{step.name}: another Kiln is making this step; waiting for it")

        with self.store.making(recipe.key, waiting):
            found = self.store.lookup(recipe)
            if isinstance(found, Entry):
                observer.step_reused(step)
                return StepOutcome(step=step, recipe=recipe, entry=found, reused=True)
            observer.step_started(step, job.miss.reason)
            try:
                entry = self._run_step(job, executor, observer)
            except BaseException:
                observer.step_failed(step)
                raise
            observer.step_finished(step, entry)
            return StepOutcome(step=step, recipe=recipe, entry=entry, reused=False)

    def _run_step(self, job: _Job, executor: Executor, observer: Observer) -> Entry:
        step, recipe = job.step, job.recipe
        log = self._paths.log_of(step.name, recipe.key)
        limits = self._limits
        started = time.monotonic()
        kept: list[Entry] = []
        with self.store.workspace() as workspace, StepListener(log, step, observer) as listener:

            def keep(ended: StepExit) -> None:
                if listener.result is not None:
                    taken = time.monotonic() - started
                    kept.append(
                        self._publish(workspace, recipe, listener, ended, executor.name, taken)
                    )

            run = StepRun(
                key=recipe.key,
                step=step.name,
                module=step.module,
                environment=self.environment(step.environment),
                params=step.params,
                inputs=job.inputs,
                out=workspace / "out",
                network=step.network,
                gpu=step.gpu,
                resumable=step.resumable,
                limits=Limits(memory_mib=limits.memory_mib, timeout_s=limits.timeout_s),
                keep=keep,
            )
            try:
                ended = executor.run(run, listener)
            except KilnError as error:
                error.log = error.log or log
                raise
            if not kept:
                raise failure_of(step, ended, listener)
            return kept[0]

    def _publish(
        self,
        workspace: Path,
        recipe: Recipe,
        listener: StepListener,
        ended: StepExit,
        executor: str,
        taken_s: float,
    ) -> Entry:
        if ended.facts.get("gpu_requested") and listener.device == "cpu":
            # Some engines take the request and say nothing; only the step can tell.
            listener.warn(
                "the engine was asked for a GPU and the step saw none: it ran on the CPU",
                hint="check the engine's NVIDIA container toolkit; GPU=required fails instead",
            )
        return self.store.publish(
            workspace,
            recipe,
            result=listener.result or {},
            warnings=tuple(listener.warnings),
            seconds=round(taken_s, 3),
            facts={
                **ended.facts,
                "executor": executor,
                "peak_memory_mib": listener.peak_memory_mib,
            },
        )

    def _ready_executor(self, steps: Sequence[Step], observer: Observer) -> Executor:
        """Choose once, and make every environment from here on: a late failure costs most."""
        if self._executor is None:
            self._executor = self._choose_executor()
        names = dict.fromkeys(step.environment for step in steps)
        missing = [name for name in names if name not in self._prepared]
        if missing:
            self._executor.prepare([self.environment(name) for name in missing], observer.say)
            self._prepared.update(missing)
        return self._executor


def _is_ready(step: Step, done: Mapping[str, StepOutcome]) -> bool:
    return all(
        isinstance(source, FromHost) or source.step in done for source in step.inputs.values()
    )


def _forecast(step: Step, *, why: str, key: str | None) -> StepForecast:
    return StepForecast(step=step.name, title=step.title, runs=bool(why), why=why, key=key)
