"""docker-compose.yml and the Dockerfile are held to the code: no Docker engine is needed to see that they fit."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.routing import Match
from typer.testing import CliRunner

from app.cli import app as cli
from app.inference.server import create_app as create_inference
from app.main import create_app as create_web
from app.settings import PREFIX, Settings

CHECKOUT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == "seesae")
URL = re.compile(r"http://127\.0\.0\.1:(\d+)(/\w+)")


def test_compose_has_a_service_per_process() -> None:
    assert set(SERVICES) == {"postgres", "migrate", "web", "worker", "inference", "worker-gpu", "inference-gpu"}
    assert SERVICES["postgres"]["image"].startswith("pgvector/pgvector:")


@pytest.mark.parametrize("name", OURS)
def test_each_service_runs_a_command_that_exists(name: str) -> None:
    """Typer parses each command with --help added, so a command or an option that is gone exits with 2."""
    result = CliRunner().invoke(cli, [*SERVICES[name]["command"], "--help"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", OURS)
def test_services_set_only_settings_that_exist(name: str) -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    assert set(SERVICES[name]["environment"]) <= known
    assert {"SEESAE_HOME", "SEESAE_DATABASE_URL", "SEESAE_INFERENCE_SECRET"} <= set(SERVICES[name]["environment"])


def test_settings_of_the_gpu_worker_are_valid() -> None:
    values = SERVICES["worker-gpu"]["environment"]
    assert Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in values.items()}).device == "cuda"


@pytest.mark.parametrize(("name", "create_app"), [("web", create_web), ("inference", create_inference)])
def test_health_checks_ask_for_routes_that_exist(name: str, create_app: Any) -> None:
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/none", inference_secret="secret")
    found = URL.search(" ".join(SERVICES[name]["healthcheck"]["test"]))
    assert found is not None
    port, path = found.groups()
    asked = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
    assert any(route.matches(asked)[0] is Match.FULL for route in create_app(settings).routes)
    assert port in SERVICES[name]["command"]


def test_web_reaches_inference_by_either_profile() -> None:
    url = SERVICES["web"]["environment"]["SEESAE_INFERENCE_URL"]
    assert url == "http://inference:" + SERVICES["inference"]["command"][-1]
    assert SERVICES["inference-gpu"]["command"] == SERVICES["inference"]["command"]
    assert SERVICES["inference-gpu"]["networks"]["default"]["aliases"] == ["inference"]


def test_profiles_choose_cpu_or_gpu() -> None:
    for name in ("worker", "inference"):
        assert SERVICES[name]["profiles"] == ["cpu"]
        assert SERVICES[f"{name}-gpu"]["profiles"] == ["gpu"]
        assert "nvidia" in str(SERVICES[f"{name}-gpu"]["deploy"])
        assert "deploy" not in SERVICES[name]


def test_services_wait_for_the_migrations() -> None:
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in OURS:
        if name != "migrate":
            assert SERVICES[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_site_is_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8000:8000"]


def test_image_copies_what_the_wheel_needs() -> None:
    dockerfile = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8")
    sources = [shlex.split(line)[1:-1] for line in dockerfile.splitlines() if line.startswith("COPY ")]
    copied = {source for line in sources for source in line}
    assert copied >= {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "NOTICE",
        "app",
        "sae_core",
        "templates",
        "static",
        "migrations",
    }
    for source in copied:
        assert (CHECKOUT / source).exists(), source
