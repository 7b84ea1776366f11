"""seesae db: upgrade, backup, restore."""

import os
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from app.cli.outcome import report_user_errors
from app.cli.processes import settings_with

group = typer.Typer(help="Upgrade, back up and restore the database.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="db", rich_help_panel="Maintenance")


@group.command()
@report_user_errors
def upgrade() -> None:
    """Bring the database's tables up to date; `seesae serve` does this automatically."""
    from app import schema
    from app.supervision.embedded_postgres import database

    settings = settings_with()
    with database(settings.home, settings.database_url) as url:
        changed = schema.upgrade(url)
    typer.echo("The database is up to date now." if changed else "The database was up to date.")


@group.command()
@report_user_errors
def backup(file: Annotated[Path, typer.Argument(help="File to write.", show_default=False)]) -> None:
    """Save the database, labels included, to one file; the site may keep running.

    Weights are not in it: they are files under SEESAE_ARTIFACTS. Copy that folder too.

    Example: seesae db backup seesae-2026-11-22.dump
    """
    from app.supervision.embedded_postgres import database

    settings = settings_with()
    with database(settings.home, settings.database_url) as url:
        _run("pg_dump", url, "--format=custom", f"--file={file}")
    typer.echo(f"Saved to {file} ({file.stat().st_size / 1e6:.1f} MB).")


@group.command()
@report_user_errors
def restore(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A file of `seesae db backup`.")],
) -> None:
    """Replace everything in the database by a backup. Stop `seesae serve` first.

    Either all of it is restored, or nothing changes.
    """
    from app.supervision.embedded_postgres import database
    from app.supervision.instance_lock import InstanceLock

    settings = settings_with()
    lock = InstanceLock.claim(settings.home)
    try:
        with database(settings.home, settings.database_url) as url:
            options = ("--clean", "--if-exists", "--no-owner", "--single-transaction")
            _run("pg_restore", url, *options, str(file))
    finally:
        lock.release()
    typer.echo(f"Restored from {file}.")


def _run(program: str, database_url: str, *arguments: str) -> None:
    """Run one of Postgres' programs, which come with the embedded server. Others see command lines, so the password is
    not in this one."""
    from app.db import connection_params, url_of
    from app.errors import UserError
    from app.supervision.postgres_server import binary

    params = connection_params(database_url)
    environment = {**os.environ, **({"PGPASSWORD": params.pop("password")} if "password" in params else {})}
    command = [binary(program), f"--dbname={url_of(params)}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environment)  # noqa: S603 - our own program
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise UserError(f"{program} failed, and nothing was changed: {reason}")
