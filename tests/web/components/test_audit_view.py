"""Parts of an audit's page that need no database."""

from dataclasses import fields

from app.web.components.audit_view import SETTINGS, settings
from sae_core.auditing import AuditConfig
from tests.audits import audited


def test_every_setting_of_an_audit_has_words() -> None:
    assert SETTINGS.keys() == {one.name for one in fields(AuditConfig)}


def test_settings_are_told_in_words_and_those_without_a_value_are_not() -> None:
    made = audited(settings={"q": 0.05, "limit": None, "features": [3, 14], "of_a_later_version": 1})
    assert settings(made) == {
        "False findings allowed among the features": "5.0\u202f%",
        "Features to ablate": "3, 14",
        "Of a later version": "1",
    }
