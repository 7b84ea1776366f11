"""docs/deploy.md, docker-compose.yml and the Dockerfile are held to the code.

No Docker engine is needed to see that the last two fit. The commands without Docker run, in processes of their own.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.routing import Match
from typer.testing import CliRunner

from app.cli import app as cli
from app.inference.server import create_app as create_inference
from app.main import create_app as create_web
from app.settings import PREFIX, Settings
from tests.app.inference.dictionaries import SLUG, Dictionary, make_dictionary, publish
from tests.app.inference.test_crowd import process
from tests.test_doc_commands import commands_of
from tests.tiny import CORPUS_FILE

CHECKOUT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == "seesae")
SECONDS = 240.0
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


class Lab:
    """The processes of docs/deploy.md on loopback, each with a home of its own, and the page's commands."""

    def __init__(self, folder: Path, dictionary: Dictionary, database_url: str, ports: dict[str, str]) -> None:
        self.folder = folder
        self.settings = {
            "database_url": database_url,
            "artifacts": str(dictionary.settings.artifacts),
            "inference_secret": "a secret of tests",
            "inference_url": f"http://127.0.0.1:{ports['8001']}",
            "device": "cpu",
        }
        names = {"my-sae": SLUG, "smollm2-135m-l9-topk-4096": SLUG, "/data/texts.jsonl": str(CORPUS_FILE), "12": "1"}
        self.small = {**names, **ports}

    def commands(self, page: str) -> list[list[str]]:
        """Return the commands in blocks of a page, with this lab's names in the place of the page's."""
        text = (CHECKOUT / "docs" / page).read_text(encoding="utf-8")
        found = [command.arguments for command in commands_of(page, text) if not command.inline]
        return [[self.small.get(word, word) for word in arguments] for arguments in found]

    def seesae(self, *begins: str, added: Sequence[str] = ()) -> str:
        """Run the page's first command that begins so; return what it prints."""
        _, *arguments = next(
            each for each in self.commands("deploy.md") if each[: len(begins) + 1] == ["seesae", *begins]
        )
        given = {PREFIX + name.upper(): value for name, value in {**self.settings, "home": str(self.folder)}.items()}
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", *arguments, *added],
            env={name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | given,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def processes(self, *names: str) -> Iterator[None]:
        """Start processes as the page does."""
        with ExitStack() as stack:
            for number, name in enumerate(names):
                _, *arguments = next(each for each in self.commands("deploy.md") if each[:2] == ["seesae", name])
                home = str(self.folder / str(number))
                log = self.folder / f"{name}-{number}.log"
                stack.enter_context(process(*arguments, log=log, home=home, **self.settings))
            yield


@pytest.fixture
async def lab(
    engine: AsyncEngine, database_url: str, tmp_path: Path, unused_tcp_port_factory: Callable[[], int]
) -> Lab:
    dictionary = make_dictionary(tmp_path / "dictionary")
    await publish(engine, dictionary, with_store=True)
    ports = {port: str(unused_tcp_port_factory()) for port in ("8000", "8001")}
    return Lab(tmp_path, dictionary, database_url, ports)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_and_commands_without_docker_work(lab: Lab) -> None:
    lab.seesae("db", "upgrade")
    lab.seesae("delete", "index", added=["--yes"])
    assert "Run 1 is next" in lab.seesae("index")
    lab.seesae("runs", "cancel")
    lab.seesae("runs", "retry")
    with lab.processes("web", "inference", "worker", "worker"):
        assert "done" in lab.seesae("runs", "show")
        assert "Index" in lab.seesae("runs")
        with httpx.Client(base_url=f"http://127.0.0.1:{lab.small['8000']}", trust_env=False) as client:
            assert probe(client).is_success
            assert "seesae_inference_up 1" in client.get("/metrics").text.splitlines()
            for words in lab.commands("api.md"):
                if "DELETE" in words:
                    answer = client.delete(words[-1].replace("smollm2-135m-l9-topk-4096", SLUG).partition(":8000")[2])
                    assert answer.json()["kind"] == "index"
    lab.seesae("delete", "sae", added=["--yes"])
    artifacts = Path(lab.settings["artifacts"])
    assert [path for folder in ("saes", "indexes") for path in (artifacts / folder).iterdir()] == []


def probe(client: httpx.Client) -> httpx.Response:
    """Probe until the inference process has started and loaded the model."""
    deadline = time.monotonic() + SECONDS
    while True:
        answer = client.post(f"/api/v1/saes/{SLUG}/probe", json={"text": "best of times"})
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
            return answer
        time.sleep(int(answer.headers["Retry-After"]))


def test_the_proxies_of_the_page_pass_on_what_the_site_reads() -> None:
    """The examples of nginx and Caddy, as trees: balanced braces, and each directive ends as the proxy wants it."""
    page = (CHECKOUT / "docs" / "deploy.md").read_text(encoding="utf-8")
    nginx = re.search(r"```nginx\n(.*?)```", page, re.DOTALL)
    caddy = re.search(r"```caddyfile\n(.*?)```", page, re.DOTALL)
    assert nginx is not None
    assert caddy is not None
    lines = [line.strip() for line in nginx[1].splitlines() if line.strip()]
    assert all(line.endswith((";", "{", "}")) for line in lines)
    for text in (nginx[1], caddy[1]):
        depths = [text[:end].count("{") - text[:end].count("}") for end in range(len(text) + 1)]
        assert min(depths) == depths[-1] == 0
        assert "127.0.0.1:8000" in text
    headers = dict(line.rstrip(";").split()[1:] for line in lines if line.startswith("proxy_set_header"))
    assert headers == {"Host": "$host", "X-Forwarded-For": "$remote_addr", "X-Forwarded-Proto": "$scheme"}
    assert {"proxy_pass http://127.0.0.1:8000;", "proxy_buffering off;"} <= set(lines)
    name = re.search(r"SEESAE_BASE_URL=(https://\S+?)`", page)
    assert name is not None
    assert Settings(base_url=name[1]).is_shared
    assert f"server_name {name[1].removeprefix('https://')};" in lines
    with pytest.raises(ValueError, match="below a path"):
        Settings(base_url=f"{name[1]}/seesae")


def test_the_site_of_compose_needs_an_account_and_says_how_to_make_it() -> None:
    settings = SERVICES["web"]["environment"]
    assert Settings(host=SERVICES["web"]["command"][2]).is_shared
    assert settings["SEESAE_ANYONE_MAY_WRITE"] == "${SEESAE_ANYONE_MAY_WRITE:-}"
    for text in ("docker-compose.yml", "docs/deploy.md"):
        command = re.search(
            r"docker compose run --rm web (user add \w+ --role admin)", (CHECKOUT / text).read_text("utf-8")
        )
        assert command is not None
        assert CliRunner().invoke(cli, [*command[1].split(), "--help"]).exit_code == 0
