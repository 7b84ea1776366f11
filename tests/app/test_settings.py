import os
from pathlib import Path

import pytest

from app.errors import UserError
from app.settings import PREFIX, Settings, load_settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def test_a_bare_environment_gives_the_defaults() -> None:
    settings = load_settings()
    assert settings.database_url is None
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.artifacts == settings.home / "artifacts"
    assert settings.author


def test_the_environment_overrides_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEESAE_HOME", str(tmp_path))
    monkeypatch.setenv("SEESAE_PORT", "9001")
    monkeypatch.setenv("SEESAE_LOG_LEVEL", "WARNING")
    monkeypatch.setenv("SEESAE_AUTHOR", "")  # as docker compose passes a variable that is not set
    settings = load_settings()
    assert settings.artifacts == tmp_path / "artifacts"
    assert (settings.port, settings.log_level) == (9001, "warning")
    assert settings.author


def test_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEESAE_HOME", "~/sae")
    monkeypatch.setenv("SEESAE_ARTIFACTS", "weights")
    settings = load_settings()
    assert settings.home == Path.home() / "sae"
    assert settings.artifacts == tmp_path / "weights"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEESAE_PORT", "eighty"),
        ("SEESAE_PORT", "70000"),
        ("SEESAE_DEVICE", "gpu"),
        ("SEESAE_BACKEND", "tensorrt"),
        ("SEESAE_LOG_LEVEL", "loud"),
        ("SEESAE_HOME", "~nosuch/sae"),
        ("SEESAE_ARTIFACTS", "~nosuch/sae"),
        ("SEESAE_HOME", "s3://bucket/home"),
        ("SEESAE_ARTIFACTS", "s3:/bucket"),
        ("SEESAE_ARTIFACTS", "s3:///sae"),
        ("SEESAE_ARTIFACTS", "s3://bucket//sae"),
        ("SEESAE_ARTIFACTS", "s3://bucket/../sae"),
        ("SEESAE_ARTIFACTS", "s3://key:secret@host/sae"),
        ("SEESAE_ARTIFACTS", "s3://bucket/sae?endpoint=x"),
        ("SEESAE_ARTIFACTS", "s3://bucket/a::simplecache"),
        ("SEESAE_ARTIFACTS", "file:///srv/sae"),
        ("SEESAE_ARTIFACTS", "https://bucket.example.org/sae"),
        ("SEESAE_ARTIFACTS", "memory://sae"),
        ("SEESAE_PROBE_MAX_TOKENS", "0"),
    ],
)
def test_an_invalid_value_is_reported_in_one_line_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        load_settings()
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert value not in message.replace(name, "") or value == "0"


def test_the_address_of_an_object_store_is_kept_and_has_a_folder_in_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEESAE_HOME", str(tmp_path))
    monkeypatch.setenv("SEESAE_ARTIFACTS", "s3://bucket/team/sae/")
    settings = load_settings()
    assert settings.artifacts == settings.object_store == "s3://bucket/team/sae"
    assert settings.artifacts_folder.parent == tmp_path
    again = Settings(**{**dict(settings), "port": 8001})  # as with options of the command line
    assert (again.object_store, again.artifacts_folder) == (settings.object_store, settings.artifacts_folder)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEESAE_INFERENCE_SECRET", "hunter2")
    monkeypatch.setenv("SEESAE_DATABASE_URL", "postgresql://ada:hunter2@db/sae")
    monkeypatch.setenv("SEESAE_INFERENCE_URL", "http://ada:hunter2@gpu:8001")
    assert "hunter2" not in repr(load_settings()) + str(load_settings())


@pytest.mark.parametrize("secret", ["hunter2é", " hunter2", "hunter2\n"])
def test_a_secret_that_no_header_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("SEESAE_INFERENCE_SECRET", secret)
    with pytest.raises(UserError, match="SEESAE_INFERENCE_SECRET") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"oidc_issuer": "https://id.example.org"}, "SEESAE_OIDC_ISSUER and SEESAE_OIDC_CLIENT_ID belong together"),
        ({"oidc_client_id": "seesae"}, "SEESAE_OIDC_ISSUER and SEESAE_OIDC_CLIENT_ID belong together"),
        ({"oidc_role": "labeller"}, "of use only with SEESAE_OIDC_ISSUER"),
        ({"oidc_client_secret": "hush"}, "of use only with SEESAE_OIDC_ISSUER"),
        (
            {"oidc_issuer": "http://id.example.org", "oidc_client_id": "seesae"},
            "SEESAE_OIDC_ISSUER cannot be used: Use https",
        ),
    ],
)
def test_a_sign_in_provider_is_set_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"SEESAE_{name.upper()}", value)
    with pytest.raises(UserError, match=said) as refused:
        load_settings()
    assert "hush" not in str(refused.value)


def test_a_provider_on_this_machine_may_be_reached_by_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEESAE_OIDC_ISSUER", "http://127.0.0.1:9000")
    monkeypatch.setenv("SEESAE_OIDC_CLIENT_ID", "seesae")
    assert load_settings().oidc_client_id == "seesae"
