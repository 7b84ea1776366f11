"""Secrets in text that libraries wrote."""

import pytest

from app.redaction import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot reach https://ada:pa@ss@index.org/simple/", "cannot reach https://…@index.org/simple/"),
        ("Invalid header value: 'Bearer hf_abcDEF123456\n'", "Invalid header value: 'Bearer …\n'"),
        ("the site at http://127.0.0.1:8000/a@b is up", "the site at http://127.0.0.1:8000/a@b is up"),
        ("W&B refused the key wandb-key-1", "W&B refused the key …"),
        ("write to ada@example.org", "write to ada@example.org"),
    ],
)
def test_secrets_are_hidden_and_the_rest_stays(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "wandb-key-1")
    assert redact(text) == shown
