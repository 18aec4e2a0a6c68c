"""What the commands do, once argv is read."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path

from kiln.cli.console import Terminal
from kiln.errors import NotReproduced, os_errors
from kiln.executors.environments import ENVIRONMENT_NAMES, load_environment
from kiln.executors.protocol import Executor
from kiln.paths import Paths
from kiln.pipeline.build import Build, write_report
from kiln.plan.plan import Plan, make_plan
from kiln.plan.request import BuildRequest
from kiln.plan.targets import load_target, target_names
from kiln.report.result import BuildResult, load_build, reading
from kiln.store.tree import hash_file
from kiln.store.usage import exclusive_lock, shared_lock
from kiln.system.files import shown_bytes, size_of


def build_targets(
    requests: Sequence[BuildRequest], paths: Paths, *, as_json: bool, verbose: bool
) -> None:
    """Plan every request before anything runs, then build them one after the other."""
    terminal = Terminal(verbose=verbose)
    results: list[BuildResult] = []
    for build in _builds(requests, paths, terminal):
        result = build.run(terminal)
        results.append(result)
        if not as_json:
            terminal.build_done(result, _shown(build.folder))
    if as_json:
        documents = [result.document() for result in results]
        terminal.json(documents[0] if len(documents) == 1 else documents)


def release_targets(
    requests: Sequence[BuildRequest], paths: Paths, *, key_file: Path | None
) -> None:
    """Build what is missing, and write the release of each target."""
    # What only a release needs takes longer to import than a build that has nothing to do.
    from kiln.release.write import write_release

    terminal = Terminal()
    key = None
    if key_file is not None:
        from kiln.release.signing import read_private_key

        key = read_private_key(key_file, terminal.ask_secret)
    for build in _builds(requests, paths, terminal):
        result = build.run(terminal)
        path = write_release(
            build.plan,
            result,
            build.folder,
            root=paths.root,
            environments=build.environments,
            key=key,
        )
        terminal.released(_shown(path), hash_file(path), result.warnings)


def verify_release(
    bundle: Path,
    request: BuildRequest,
    paths: Paths,
    *,
    public_key: Path | None,
    trusted: bool,
    as_json: bool,
) -> None:
    """Build a release again and compare; raises NotReproduced."""
    from kiln.release.verify import Verifier, open_release

    terminal = Terminal()
    with shared_lock(paths.home, terminal.say):
        release = open_release(bundle, paths, public_key)
        terminal.opened(release)
        verifier = Verifier(
            release,
            request,
            paths,
            lambda root: _choose(request, dataclasses.replace(paths, root=root), terminal),
            trusted=trusted,
        )
        found = verifier.verify(terminal)
    if as_json:
        terminal.json(dataclasses.asdict(found))
    else:
        terminal.verified(found)
    if not found.reproduced:
        different = [each.name for each in found.files if not each.same]
        raise NotReproduced(
            f"{len(different)} of {len(found.files)} files are not the same again",
            hint=f"what was made instead is in {verifier.rebuilt}",
        )


def explain_targets(requests: Sequence[BuildRequest], paths: Paths, *, as_json: bool) -> None:
    """Say what would run."""
    terminal = Terminal()
    found = {}
    for request in requests:
        plan = _plan(request, paths)
        choose = functools.partial(_choose, request, paths, terminal)
        found[plan.target.name] = Build(plan, paths, choose).explain()
    if as_json:
        terminal.json(
            {name: [dataclasses.asdict(look) for look in looks] for name, looks in found.items()}
        )
        return
    for name, looks in found.items():
        if len(found) > 1:
            terminal.say(f"target {name}")
        terminal.forecasts(looks)


def inspect_file(file: Path, request: BuildRequest, paths: Paths, *, as_json: bool) -> bool:
    """Say what a TFLite file is; True if the target's firmware would take it."""
    # Nothing that a build with nothing to do needs.
    from kiln.pipeline.inspect import Inspector

    terminal = Terminal()
    target = load_target(paths.root / "targets", request.target)
    choose = functools.partial(_choose, request, paths, terminal)
    with shared_lock(paths.home, terminal.say):
        found = Inspector(request, target, paths, choose).inspect(file, terminal)
    if as_json:
        terminal.json(dataclasses.asdict(found))
    else:
        terminal.inspected(found)
    return found.verdict.accepted


def compare_builds(left: Path, right: Path, *, as_json: bool) -> None:
    """Two builds side by side."""
    from kiln.report.compare import compare

    found = compare(load_build(left), load_build(right))
    if as_json:
        Terminal().json(dataclasses.asdict(found))
    else:
        Terminal().compared(found)


def show_report(folder: Path | None, request: BuildRequest, paths: Paths, *, show: bool) -> None:
    """Make report.html anew, and open it in a browser."""
    if folder is None:
        plan = _plan(request, paths)
        folder = paths.result_of(plan.target.name, plan.name)
    document = load_build(folder)
    with reading("the report"):
        page = write_report(folder if folder.is_dir() else folder.parent, document)
    terminal = Terminal()
    terminal.result(_shown(page))
    if show and not webbrowser.open(page.absolute().as_uri()):
        terminal.say("no browser was found on this host: open the file yourself")


def list_targets(paths: Paths, *, as_json: bool) -> None:
    """Every board with its limits."""
    folder = paths.root / "targets"
    targets = [load_target(folder, name) for name in target_names(folder)]
    if as_json:
        Terminal().json([dataclasses.asdict(target) for target in targets])
    else:
        Terminal().targets(targets)


def examine(paths: Paths, *, deep: bool, as_json: bool) -> bool:
    """Run doctor's checks; True if a build can run here."""
    from kiln.cli.doctor import examine_host

    findings = examine_host(paths, deep=deep)
    terminal = Terminal()
    if as_json:
        terminal.json([dataclasses.asdict(finding) for finding in findings])
    else:
        terminal.findings(findings)
    return all(finding.well for finding in findings)


def make_images(paths: Paths, registry: str | None) -> None:
    """Make what is missing of the three images."""
    terminal = Terminal()
    request = BuildRequest(executor="docker", registry=registry)
    environments = [load_environment(paths.root, name) for name in ENVIRONMENT_NAMES]
    with shared_lock(paths.home, terminal.say):
        _choose(request, paths, terminal).prepare(environments, terminal.say)


def clean_up(paths: Paths, *, store: bool, environments: bool) -> None:
    """Remove what can be made again, saying what went."""
    with exclusive_lock(paths.home, "kiln clean"):
        _clean_up(paths, Terminal(), store=store, environments=environments)


def collect_garbage(
    paths: Paths, *, older: str, keep: str | None, force: bool, dry_run: bool
) -> None:
    """Remove what no recorded build needs, saying what went, and why."""
    from kiln.cli.gc import Rules, bytes_of, carry_out, plan_sweep, seconds_of

    terminal = Terminal()
    rules = Rules(
        unused_s=seconds_of(older), keep_bytes=None if keep is None else bytes_of(keep), force=force
    )
    removed = 0
    with exclusive_lock(paths.home, "kiln gc"):
        sweep = plan_sweep(paths, rules)
        for removal in sweep.removals:
            if dry_run or carry_out(removal):
                terminal.removed(removal, dry_run=dry_run)
                removed += removal.bytes
    terminal.swept(removed, sweep.notes, dry_run=dry_run)


def _clean_up(paths: Paths, terminal: Terminal, *, store: bool, environments: bool) -> None:
    from kiln.executors.docker.clean import clean_engine

    folders = [paths.home / "jobs", paths.home / "verify", paths.logs]
    if store:
        folders += [paths.store, paths.home / "descriptions"]
    if environments:
        folders.append(paths.home / "envs")
    for folder in folders:
        if folder.exists():
            size = size_of(folder)
            with os_errors("cannot remove files"):
                shutil.rmtree(folder)
            terminal.say(f"removed {_shown(folder)} ({shown_bytes(size)})")
    for removed in clean_engine(images=environments):
        terminal.say(f"removed {removed}")


def _builds(requests: Sequence[BuildRequest], paths: Paths, terminal: Terminal) -> Iterator[Build]:
    """Every request as a build, all planned before the first is run."""
    plans = [_plan(request, paths) for request in requests]
    # One for all targets, chosen when the first of them has something to run.
    executor = functools.cache(functools.partial(_choose, requests[0], paths, terminal))
    for note in dict.fromkeys(note for plan in plans for note in plan.notes):
        terminal.say(note)
    with shared_lock(paths.home, terminal.say):
        for plan in plans:
            if len(plans) > 1:
                terminal.say(f"target {plan.target.name}")
            yield Build(plan, paths, executor)


def _plan(request: BuildRequest, paths: Paths) -> Plan:
    return make_plan(request, load_target(paths.root / "targets", request.target))


def _choose(request: BuildRequest, paths: Paths, terminal: Terminal) -> Executor:
    # Nothing that a build with nothing to do needs.
    from kiln.executors.choose import choose_executor

    return choose_executor(
        request.executor,
        registry=request.registry,
        root=paths.root,
        home=paths.home,
        variables=os.environ,
        say=terminal.say,
    )


def _shown(path: Path) -> str:
    """A path as short as it can be typed."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
