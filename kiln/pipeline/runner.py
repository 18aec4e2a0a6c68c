"""Runs steps as their inputs are there: found in the store, or made and published."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kiln.errors import KilnError
from kiln.executors.environments import Environment, EnvironmentName, load_environment
from kiln.executors.events import StepEvent
from kiln.executors.protocol import STEP_VARIABLES, Executor, Limits, StepRun
from kiln.paths import Paths
from kiln.pipeline.events import (
    Event,
    Message,
    Observer,
    StepFailed,
    StepFinished,
    StepReused,
    StepSaid,
    StepStarted,
)
from kiln.pipeline.step_log import StepLog, failure_of
from kiln.plan.request import LimitSettings
from kiln.plan.step import FromHost, Step
from kiln.plan.step_results import read_result
from kiln.store.sources import sources_digest
from kiln.store.store import Entry, Miss, Recipe, Store
from kiln.store.tree import Tree, digest_of
from kiln.store.usage import Ledger
from kiln.system.workers import Workers, cores
from stages.contract import CONTRACT_VERSION, EXIT_OK

#: Each step is a program with hundreds of megabytes of its own.
_MOST_AT_ONCE = 4


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
    """Runs steps in one home. ``choose_executor`` is called only if something must run."""

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
        *,
        check: Callable[[StepOutcome], None] = lambda _outcome: None,
    ) -> dict[str, StepOutcome]:
        """Run what is missing, each step when its inputs are there and a core is free for it.

        ``check`` is called with each outcome as it comes, and may raise. The first failure ends
        what runs beside it. Raises KilnError.
        """
        self.store.open()
        observe = _one_at_a_time(observer)
        done: dict[str, StepOutcome] = {}
        left = list(steps)
        with Workers[StepOutcome]() as workers:
            while left or workers.busy:
                step = next((each for each in left if _is_ready(each, done)), None)
                if step is None or workers.busy == self._at_once:
                    outcome = workers.next()
                else:
                    left.remove(step)
                    recipe, inputs = self._recipe(step, brought, done)
                    found = self.store.lookup(recipe)
                    if not isinstance(found, Entry):
                        job = _Job(step=step, recipe=recipe, inputs=inputs, miss=found)
                        executor = self._ready_executor([step, *left], observe)
                        workers.start(functools.partial(self._make, job, executor, observe))
                        continue
                    self._ledger.mark_used(recipe.key)
                    observe(StepReused(step=step))
                    outcome = StepOutcome(step=step, recipe=recipe, entry=found, reused=True)
                done[outcome.step.name] = outcome
                check(outcome)
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

    def _make(self, job: _Job, executor: Executor, observe: Observer) -> StepOutcome:
        """Run a step under its lock; another driver may have made it meanwhile."""
        step, recipe = job.step, job.recipe
        if job.miss.damaged:
            observe(Message(text=f"{step.name}: {job.miss.reason}; making it again"))

        def waiting() -> None:
            text = f"{step.name}: another Kiln is making this step; waiting for it"
            observe(Message(text=text))

        with self.store.making(recipe.key, waiting):
            found = self.store.lookup(recipe)
            if isinstance(found, Entry):
                observe(StepReused(step=step))
                return StepOutcome(step=step, recipe=recipe, entry=found, reused=True)
            observe(StepStarted(step=step, why=job.miss.reason))
            try:
                entry = self._run_step(job, executor, observe)
            except BaseException:
                observe(StepFailed(step=step))
                raise
            observe(StepFinished(step=step, seconds=entry.seconds))
            return StepOutcome(step=step, recipe=recipe, entry=entry, reused=False)

    def _run_step(self, job: _Job, executor: Executor, observe: Observer) -> Entry:
        """Run a step, and publish what it gives before the executor clears up after it.

        So a driver that is killed in between loses nothing.
        """
        path = self._paths.log_of(job.step.name, job.recipe.key)
        started = time.monotonic()
        with self.store.workspace() as workspace, StepLog(path, job.step) as log:

            def hear(event: StepEvent) -> None:
                log.add(event)
                observe(StepSaid(step=job.step, event=event))

            try:
                with executor.run(self._step_run(job, workspace / "out"), hear) as ended:
                    taken_s = time.monotonic() - started
                    if ended.code != EXIT_OK or log.finished is None:
                        raise failure_of(log, ended)
                    facts = {**ended.facts, "executor": executor.name}
                    return self._publish(workspace, job.recipe, log, facts, taken_s)
            except KilnError as error:
                error.log = error.log or path
                raise

    def _step_run(self, job: _Job, out: Path) -> StepRun:
        step, limits = job.step, self._limits
        return StepRun(
            key=job.recipe.key,
            step=step.name,
            module=step.module,
            environment=self.environment(step.environment),
            params=step.params,
            inputs=job.inputs,
            out=out,
            network=step.network,
            gpu=step.gpu,
            resumable=step.resumable,
            limits=Limits(memory_mib=limits.memory_mib, timeout_s=limits.timeout_s),
        )

    def _publish(
        self,
        workspace: Path,
        recipe: Recipe,
        log: StepLog,
        facts: Mapping[str, Any],
        taken_s: float,
    ) -> Entry:
        """Put what a step gave into the store, with what it said."""
        assert log.finished is not None
        if facts.get("gpu_requested") and log.device is not None and log.device.kind == "cpu":
            # Some engines take the request and say nothing; only the step can tell.
            log.warn(
                "the engine was asked for a GPU and the step saw none: it ran on the CPU",
                hint="check the engine's NVIDIA container toolkit; GPU=required fails instead",
            )
        return self.store.publish(
            workspace,
            recipe,
            result=log.finished.result,
            warnings=tuple(log.warnings),
            seconds=round(taken_s, 3),
            facts={**facts, "peak_memory_mib": log.finished.peak_memory_mib},
        )

    def _ready_executor(self, steps: Sequence[Step], observe: Observer) -> Executor:
        """Choose once, and make every environment from here on: a late failure costs most."""
        if self._executor is None:
            self._executor = self._choose_executor()
        names = dict.fromkeys(step.environment for step in steps)
        missing = [name for name in names if name not in self._prepared]
        if missing:
            environments = [self.environment(name) for name in missing]
            self._executor.prepare(environments, lambda text: observe(Message(text=text)))
            self._prepared.update(missing)
        return self._executor


def _one_at_a_time(observer: Observer) -> Observer:
    """The same observer for several threads: it is called by one of them at a time."""
    lock = threading.Lock()

    def observe(event: Event) -> None:
        with lock:
            observer(event)

    return observe


def _is_ready(step: Step, done: Mapping[str, StepOutcome]) -> bool:
    return all(
        isinstance(source, FromHost) or source.step in done for source in step.inputs.values()
    )


def _forecast(step: Step, *, why: str, key: str | None) -> StepForecast:
    return StepForecast(step=step.name, title=step.title, runs=bool(why), why=why, key=key)
