"""``kiln images``."""

from __future__ import annotations

import click

from kiln.cli.options import option
from kiln.cli.session import Session
from kiln.executors.environments import ENVIRONMENT_NAMES, load_environment
from kiln.plan.request import BuildRequest


@click.command()
@option("--registry", metavar="PREFIX", help="Pull images from here, if they are there.")
def images(registry: str | None) -> None:
    """Make the stage images of the docker executor now."""
    session = Session.start()
    request = BuildRequest(executor="docker", registry=registry)
    environments = [load_environment(session.paths.root, name) for name in ENVIRONMENT_NAMES]
    with session.working():
        session.executor(request)().prepare(environments, session.terminal.say)
