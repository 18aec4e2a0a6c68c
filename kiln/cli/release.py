"""``kiln release`` and ``kiln verify``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from kiln.cli.build import planned_builds
from kiln.cli.console import Terminal
from kiln.cli.options import option, request_options, requests_of
from kiln.cli.session import Session, shown_path
from kiln.errors import NotReproduced
from kiln.plan.request import Flags, load_request
from kiln.release.signing import read_private_key
from kiln.release.verify import Release, Verification, Verifier, open_release
from kiln.release.write import write_release
from kiln.store.tree import hash_file


@click.command()
@request_options
@option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Sign with this Ed25519 private key, PEM or OpenSSH.",
)
def release(key: Path | None, config: Path | None, **flags: Any) -> None:
    """Build, then write one archive that says how it was made and can be made again."""
    session = Session.start()
    terminal = session.terminal
    signing_key = None if key is None else read_private_key(key, terminal.ask_secret)
    for build in planned_builds(requests_of(config, flags), session):
        result = build.run(terminal.progress())
        path = write_release(
            build.plan,
            result,
            build.folder,
            root=session.paths.root,
            environments=build.environments,
            key=signing_key,
        )
        terminal.print(f"[bold]{escape(shown_path(path))}[/]")
        # The digest under which another host's release can be compared with this one.
        terminal.print(f"sha256    {hash_file(path)}")
        for warning in result.warnings:
            terminal.warn(warning.message, warning.hint)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), envvar="KILN_BUNDLE")
@option("--data", metavar="PATH", help="The data set that it was made from, if it was yours.")
@option("--weights", metavar="FILE", help="The weights that it was made from, if they were yours.")
@option("--executor", type=click.Choice(["auto", "docker", "local"]), help="Where steps run.")
@option(
    "--public-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Accept no other signature than one by this key.",
)
@option("--trust-bundle/--no-trust-bundle", help="Run its code without knowing who made it.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def verify(
    bundle: Path,
    public_key: Path | None,
    trust_bundle: bool | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Check a release's signature and sums, build it again, and compare every file.

    Ends with 15 if it is damaged or not signed by the given key, with 16 if a file comes out
    differently.
    """
    session = Session.start()
    request = load_request(Flags(**flags), None, Path.cwd())
    with session.working():
        opened = open_release(bundle, session.paths, public_key)
        _show_opened(opened, session.terminal)
        verifier = Verifier(
            opened,
            request,
            session.paths,
            lambda root: session.executor(request, root=root)(),
            trusted=bool(trust_bundle),
        )
        found = verifier.verify(session.terminal.progress())
    if as_json:
        session.terminal.json(dataclasses.asdict(found))
    else:
        _show_verified(found, session.terminal)
    if not found.reproduced:
        different = [each.name for each in found.files if not each.same]
        raise NotReproduced(
            f"{len(different)} of {len(found.files)} files are not the same again",
            hint=f"what was made instead is in {verifier.rebuilt}",
        )


def _show_opened(release: Release, terminal: Terminal) -> None:
    """A release before it is built again: whole, and by whom."""
    terminal.mark("✓", f"{release.name}: all {len(release.files)} files are as SHA256SUMS says")
    if release.signer is None:
        terminal.mark("!", "the release is not signed")
    elif release.known:
        terminal.mark("✓", f"signed by {release.signer}")
    else:
        terminal.mark(
            "!", f"signed by {release.signer}, whom you have not named (pass PUBLIC_KEY=)"
        )


def _show_verified(found: Verification, terminal: Terminal) -> None:
    """Each file: the same again, taken as it is, or since which step it differs and how."""
    for file in found.files:
        if file.taken:
            terminal.mark("=", f"{file.name}: taken as it is ({file.taken})", out=True)
        elif file.same:
            terminal.mark("✓", f"{file.name}: identical", out=True)
        else:
            terminal.mark("✕", f"{file.name}: differs since the step {file.step}", out=True)
            terminal.print(f"  {escape(file.how)}")
    for title in found.figures:
        terminal.mark("!", f"{title}: other figures than the release's report shows", out=True)
