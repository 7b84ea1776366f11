"""A job context on a database of its own, with a tiny model and a small corpus to work on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.pipeline.train import TrainParams
from app.runs.job_context import JobContext
from app.settings import Settings
from tests.bucket import bucket, s3_server
from tests.tiny import CORPUS_FILE, tiny_model

__all__ = ["bucket", "s3_server"]  # fixtures


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors gain nothing from threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def short_forecast() -> Iterator[None]:
    """Forecast from one pass of the model and one product, as where these take a second: most runs here take less."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.pipeline.forecast._SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(home=tmp_path / "home", database_url=database_url, device="cpu", author="tester")


@pytest.fixture
def ctx(settings: Settings, engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession]) -> JobContext:
    return JobContext(settings, engine, sessionmaker)


@pytest.fixture
def training(model_folder: Path) -> TrainParams:
    """A training of a moment."""
    return TrainParams(
        model=str(model_folder),
        hook=("resid_post.1",),
        corpus=str(CORPUS_FILE),
        length=32,
        width=64,
        k=4,
        samples=6_000,
        batch_size=256,
    )
