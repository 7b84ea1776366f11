"""seesae db: upgrade, backup, restore."""

import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, BinaryIO

import typer

from app.cli.outcome import notify, report_user_errors, say
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
    say("The database is up to date now." if changed else "The database was up to date.")


@group.command()
@report_user_errors
def backup(
    file: Annotated[Path, typer.Argument(help="File to write.", dir_okay=False, writable=True, show_default=False)],
) -> None:
    """Save the database, labels included, to one file; the site may keep running.

    A backup that the file holds is replaced once the new one is whole. Weights are not in it: they are files under
    SEESAE_ARTIFACTS. Copy that folder too.

    Example: seesae db backup seesae-2026-11-22.dump
    """
    from app.supervision.embedded_postgres import database

    settings = settings_with()
    with database(settings.home, settings.database_url) as url:
        _dump(url, file)
    say(f"Saved to {file} ({file.stat().st_size / 1e6:.1f} MB).")


@group.command()
@report_user_errors
def restore(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A file of `seesae db backup`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Replace everything without asking.")] = False,
) -> None:
    """Replace everything in the database by a backup. Stop `seesae serve` first.

    Either all of it is restored, or nothing changes.
    """
    from app.supervision.embedded_postgres import database
    from app.supervision.instance_lock import InstanceLock

    if not yes and not sys.stdin.isatty():
        notify("Nothing was restored. Add --yes to replace everything that is in the database.")
        raise typer.Exit(1)
    if not yes and not typer.confirm("Replace everything in the database by this backup?", err=True):
        raise typer.Exit(1)
    settings = settings_with()
    lock = InstanceLock.claim(settings.home)
    try:
        with database(settings.home, settings.database_url) as url:
            _replace_all(url, file)
    finally:
        lock.release()
    say(f"Restored from {file}.")


def _dump(database_url: str, file: Path) -> None:
    """Write a backup; what `file` held before stays until the new one is whole.

    Raises:
        UserError: the file cannot be written, or the database refused to be read.
    """
    from app.errors import UserError
    from sae_core.files import write_atomically

    command, environment = _command("pg_dump", database_url)

    def write(output: BinaryIO) -> None:
        if target.exists():
            os.fchmod(output.fileno(), stat.S_IMODE(target.stat().st_mode))  # who may read the old may read the new
        done = subprocess.run(  # noqa: S603 - our own program
            [*command, "--format=custom", f"--file={output.name}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            env=environment,
        )
        if done.returncode != 0:
            raise UserError(f"pg_dump failed, and nothing was changed: {_first_error(done.stderr)}")

    target = file.resolve()  # a link stays one
    if target.exists() and not target.is_file():
        raise UserError(f"{file} is not a file. Name a file to write.")
    try:
        target.parent.stat()  # or a mistyped folder would be made
        write_atomically(target, write)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}), and nothing was changed.") from error


def _replace_all(database_url: str, file: Path) -> None:
    """Drop everything in the database and read the backup, in one transaction.

    `pg_restore --clean` cannot do it: it drops constraints that a partition inherits, and not what only newer versions
    have.

    Raises:
        UserError: it is no backup, or the database refused it; nothing was changed.
    """
    from app.errors import UserError
    from app.schema import DROP_ALL
    from app.supervision.postgres_server import binary

    command, environment = _command("psql", database_url)
    with TemporaryFile() as read_errors, TemporaryFile() as write_errors:
        read = subprocess.Popen(  # noqa: S603 - our own program
            [binary("pg_restore"), "--no-owner", "--file=-", str(file)], stdout=subprocess.PIPE, stderr=read_errors
        )
        write = subprocess.Popen(  # noqa: S603 - our own program
            [*command, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=write_errors,
            env=environment,
        )
        with read, write, suppress(BrokenPipeError):  # psql ends at the first error, and says which
            assert read.stdout is not None
            assert write.stdin is not None
            write.stdin.write(f"BEGIN; {DROP_ALL};\n".encode())
            shutil.copyfileobj(read.stdout, write.stdin)
            if read.wait() == 0:  # or psql reaches the end without it, and rolls back
                write.stdin.write(b"COMMIT;\n")
            write.stdin.close()
        for program, process, errors in (("psql", write, write_errors), ("pg_restore", read, read_errors)):
            if process.returncode != 0:
                errors.seek(0)
                reason = _first_error(errors.read())
                raise UserError(f"{program} failed, and nothing was changed: {reason}")


def _command(program: str, database_url: str) -> tuple[list[str], dict[str, str]]:
    """Return a command line and its environment. Others see command lines, so the password is not in this one."""
    from app.database_url import connection_params, url_of
    from app.supervision.postgres_server import binary

    params = connection_params(database_url)
    password = {"PGPASSWORD": params.pop("password")} if "password" in params else {}
    return [binary(program), f"--dbname={url_of(params)}"], {**os.environ, **password}


def _first_error(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines() or ["no message"]
    return next((line for line in lines if "error" in line.lower()), lines[0])
