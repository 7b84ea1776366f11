"""seesae monitor: list, show, check, alerts and delete, on a tiny model; what makes and scans is a run."""

import asyncio
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app.db import create_engine, create_sessionmaker
from app.settings import get_settings
from tests.app.cli.test_cli import seesae
from tests.app.inference.dictionaries import SLUG, make_dictionary, publish
from tests.monitors import add_alerts, add_monitor

pytestmark = pytest.mark.slow


def last(*arguments: str) -> dict[str, object]:
    done = seesae("monitor", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_monitors_are_used_from_the_command_line(
    database_url: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    dictionary = make_dictionary(tmp_path_factory.mktemp("home"))
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    monkeypatch.setenv("SEESAE_HOME", str(dictionary.settings.home))
    monkeypatch.setenv("SEESAE_DEVICE", "cpu")
    get_settings.cache_clear()
    assert "No monitors yet" in seesae("monitor", "list").stdout

    async def fill() -> None:
        engine = create_engine(database_url)
        await publish(engine, dictionary)
        async with create_sessionmaker(engine).begin() as session:
            await add_monitor(session, dictionary.row, own=dictionary.sae, threshold=-100.0)  # type: ignore[arg-type]
            await add_alerts(session, "kings")
        await engine.dispose()

    asyncio.run(fill())
    (listed,) = last("list")["monitors"]  # type: ignore[misc]
    assert (listed["name"], listed["alerts"], listed["checked"]) == ("kings", 3, 53)
    shown = seesae("monitor", "show", "kings").stdout
    assert "does better than the best SAE features" in shown and "2 SAE features, in use" in shown and "3.0%" in shown
    assert "A whole text alerts above -100, as 3 of 400 benign ones did: 0.15% to 2.18%." in shown
    assert "A text that grows alerts above -99.5, as 2 of 400 benign ones did: 0.06% to 1.79%." in shown
    (checked,) = last("check", "kings", "--text", "It was the best of times")["results"]  # type: ignore[misc]
    assert checked["alert"] and checked["probe_score"] is not None
    assert "it alerts above -100" in seesae("monitor", "check", "kings", "--text", "It was").stdout
    alerts = seesae("monitor", "alerts", "kings").stdout.splitlines()
    assert len(alerts) == 5 and json.loads(alerts[0])["source"] == "check"
    assert seesae("monitor", "check", "kings").exit_code == 2
    assert seesae("monitor", "show", "none").exit_code == 1
    assert seesae("monitor", "scan", "kings").exit_code == 2
    (tmp_path / "text").write_text("no")
    save_file({"v": torch.ones(3)}, tmp_path / "short")
    sides = ("--positive", "none:a", "--benign", "none:b")
    for file, code, message in (
        ("none", 2, "cannot be read"),
        ("text", 2, "not a safetensors file"),
        ("short", 1, "The direction has 3 numbers"),
    ):
        refused = seesae("monitor", "add", SLUG, "own", *sides, "--direction", str(tmp_path / file))
        assert refused.exit_code == code and message in " ".join(refused.stderr.split()), refused.stderr
    assert seesae("monitor", "delete", "kings", "--yes").exit_code == 0
    assert last("list") == {"monitors": []}
