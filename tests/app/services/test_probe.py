"""Validation of prompts; tests/web/api/test_probe.py tests a probe from text to answer."""

import pytest

from app.errors import Unprocessable
from app.services.probe import check_text


def test_texts_that_are_empty_or_not_unicode_are_refused() -> None:
    with pytest.raises(Unprocessable, match="empty"):
        check_text("")
    with pytest.raises(Unprocessable, match=r"U\+D83E\) at character 2"):
        check_text("ab\ud83e")
    check_text("🧠\0 ")
