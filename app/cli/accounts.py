"""seesae user: accounts of the people who use a site."""

import asyncio
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Json
from app.cli.outcome import answer, notify, report_user_errors
from app.cli.processes import settings_with
from app.cli.sessions import local_session

if TYPE_CHECKING:
    from app.settings import Settings

group = typer.Typer(help="Accounts: add, list, change and disable them.", no_args_is_help=True)


class RoleName(StrEnum):
    """Roles, each of which may do all that the ones before it may."""

    viewer = "viewer"
    labeller = "labeller"
    reviewer = "reviewer"
    admin = "admin"


Name = Annotated[str, typer.Argument(help="Name of the account, in any case.", metavar="NAME", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="user", rich_help_panel="People")


@group.command()
@report_user_errors
def add(
    name: Annotated[str, typer.Argument(help="Name, which others see.", metavar="NAME", show_default=False)],
    role: Annotated[
        RoleName,
        typer.Option(
            help="viewer reads; labeller also labels; reviewer also changes what others made; admin also starts runs, "
            "deletes, and looks after accounts."
        ),
    ] = RoleName.labeller,
    token: Annotated[
        bool, typer.Option("--token", help="Print an API token for a program, instead of a link for a person.")
    ] = False,
    password: Annotated[
        bool, typer.Option("--password", help="Ask for the password here, or read it from standard input.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make an account, and print a link with which its person sets the password.

    The first account ends the time in which nobody had to sign in. The link works once, for seven days.

    Examples:
      seesae user add ada --role admin
      seesae user add nightly --role labeller --token
    """
    asyncio.run(_add(name, role, token=token, password=_password() if password else None, as_json=as_json))


async def _add(name: str, role: RoleName, *, token: bool, password: str | None, as_json: bool) -> None:
    from app.services import accounts
    from app.services.actors import Role
    from app.services.passwords import hash_password

    hashed = None if password is None else await hash_password(password)
    settings = settings_with()
    async with local_session(settings) as session:
        made = await accounts.create_account(session, name, Role[role.value], password_hash=hashed)
        assert made.person_id is not None
        result: dict[str, Any] = {"id": made.person_id, "name": made.name, "role": role.value}
        text = f"{made.name} has the role {role.value} now."
        if token:
            result["token"] = await accounts.create_token(session, made.person_id, "command line")
            notify(f"{text} This token is not shown again:")
            text = result["token"]
        elif password is None:
            result["link"] = _link(settings, await accounts.invite_to_set_password(session, made.person_id))
            notify(
                f"{text} Send this link to its person: it sets the password, once, within seven days."
                f"{_assumed(settings)}"
            )
            text = result["link"]
    answer(result, as_json=as_json, text=text)


@group.command("list")
@report_user_errors
def list_(as_json: Json = False) -> None:
    """List the accounts."""
    asyncio.run(_list(as_json))


async def _list(as_json: bool) -> None:
    from app.cli.result_text import people_table
    from app.queries import people

    async with local_session(settings_with()) as session:
        found = await people.list_accounts(session)
    result = [
        {
            "id": one.id,
            "name": one.name,
            "role": one.role,
            "disabled": one.disabled_at is not None,
            "password": one.has_password,
            "seen_at": one.seen_at.isoformat() if one.seen_at else None,
        }
        for one in found
    ]
    none = "There are no accounts: nobody has to sign in. `seesae user add NAME --role admin` makes the first one."
    answer({"users": result}, as_json=as_json, text=people_table(found) if found else none)


@group.command()
@report_user_errors
def role(
    name: Name,
    role: Annotated[RoleName, typer.Argument(help="The new role.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Change the role of an account."""
    asyncio.run(_change(name, f"has the role {role.value} now", as_json, role=role))


@group.command()
@report_user_errors
def disable(name: Name, as_json: Json = False) -> None:
    """Disable an account: its sessions, tokens and links end, and what it made stays."""
    asyncio.run(_change(name, "is disabled, and signed out everywhere", as_json, enabled=False))


@group.command()
@report_user_errors
def enable(name: Name, as_json: Json = False) -> None:
    """Let a disabled account be used again."""
    asyncio.run(_change(name, "is enabled", as_json, enabled=True))


async def _change(
    name: str, done: str, as_json: bool, *, role: RoleName | None = None, enabled: bool | None = None
) -> None:
    from app.services import accounts
    from app.services.actors import Role

    async with local_session(settings_with()) as session:
        person = await accounts.find_account(session, name)
        if role is not None:
            await accounts.change_role(session, person.id, Role[role.value])
        elif enabled:
            await accounts.enable_account(session, person.id)
        else:
            await accounts.disable_account(session, person.id)
        person = await accounts.find_account(session, name)
    result = {"id": person.id, "name": person.name, "role": person.role, "disabled": person.disabled_at is not None}
    answer(result, as_json=as_json, text=f"{person.name} {done}.")


@group.command()
@report_user_errors
def link(name: Name, as_json: Json = False) -> None:
    """Print a new link with which a person sets their password; links before it end."""
    asyncio.run(_print_link(name, as_json))


async def _print_link(name: str, as_json: bool) -> None:
    from app.services import accounts

    settings = settings_with()
    async with local_session(settings) as session:
        person = await accounts.find_account(session, name)
        made = _link(settings, await accounts.invite_to_set_password(session, person.id))
    answer({"id": person.id, "name": person.name, "link": made}, as_json=as_json, text=made)


def _link(settings: "Settings", secret: str) -> str:
    """Return the link of an invitation: at the site's own name, or else at this machine's port."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    local = "localhost" if settings.host in ("0.0.0.0", "::", "127.0.0.1") else host  # noqa: S104 - compared
    return f"{settings.base_url or f'http://{local}:{settings.port}'}/invitations/{secret}"


def _assumed(settings: "Settings") -> str:
    """Return what the address of a link assumes, empty where a setting names the site."""
    if settings.base_url:
        return ""
    return (
        f" It assumes that the site is at port {settings.port} of this machine: SEESAE_BASE_URL, SEESAE_HOST and "
        "SEESAE_PORT say where else."
    )


def _password() -> str:
    """Return a password that is typed twice, or the first line of standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")
