"""The refusal to start a site that others can reach and that nobody has to sign in to."""

from contextlib import suppress

from app.errors import Unavailable, UserError
from app.settings import Settings


async def refuse_without_accounts(settings: Settings, database_url: str) -> None:
    """Refuse to start where everybody who reaches the site could write to it.

    A database that is not there yet, or has no tables yet, does not keep the site from starting: without accounts it
    then answers nobody.

    Raises:
        UserError: others can reach the site, there are no accounts, and no setting says that this is meant.
    """
    if not settings.is_shared or settings.anyone_may_write:
        return
    # A site for this machine alone starts without them: they take long to import.
    from sqlalchemy.exc import ProgrammingError

    from app.db import create_engine, create_sessionmaker, transaction
    from app.queries.people import without_account

    engine = create_engine(database_url)
    accounts = True
    try:
        with suppress(Unavailable, ProgrammingError):
            async with transaction(create_sessionmaker(engine)) as session:
                accounts, _ = await without_account(session, "")
    finally:
        await engine.dispose()
    if not accounts:
        where = settings.base_url or settings.host
        raise UserError(
            f"This site would be open to everybody who reaches {where}: it has no accounts. Make the first one with "
            "`seesae user add NAME --role admin`, or set SEESAE_ANYONE_MAY_WRITE=1 if that is meant."
        )
