from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from httpx import ASGITransport, AsyncClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import create_engine, create_sessionmaker
from app.errors import Unavailable
from app.web.dependencies import Session

Sessions = async_sessionmaker[AsyncSession]


async def test_a_failed_commit_is_an_error_response(engine: AsyncEngine, sessionmaker: Sessions) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("CREATE TABLE late (id int PRIMARY KEY, other int REFERENCES late DEFERRABLE INITIALLY DEFERRED)")
        )
    app = FastAPI()
    app.state.sessionmaker = sessionmaker

    @app.post("/")
    async def write(session: Session) -> str:
        await session.execute(text("INSERT INTO late VALUES (1, 2)"))
        return "written"

    async with AsyncClient(transport=ASGITransport(app, raise_app_exceptions=False), base_url="http://test") as client:
        assert (await client.post("/")).status_code == 500


async def test_an_endpoint_receives_unavailable_from_its_session(tmp_path: Path) -> None:
    app = FastAPI()
    app.state.sessionmaker = create_sessionmaker(create_engine(f"postgresql:///nothing?host={tmp_path}"))

    @app.exception_handler(Unavailable)
    async def unavailable(request: object, error: Unavailable) -> JSONResponse:
        return JSONResponse(str(error), error.status)

    @app.get("/")
    async def read(session: Session) -> int:
        return (await session.scalar(text("SELECT 1"))) or 0

    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/")).status_code == 503
