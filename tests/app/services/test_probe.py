"""What a prompt must be; tests/web/api/test_probe.py has the whole way from text to answer."""

import pytest

from app.errors import Unprocessable
from app.services.probe import check_text


def test_a_text_must_hold_characters() -> None:
    with pytest.raises(Unprocessable, match="empty"):
        check_text("")
    with pytest.raises(Unprocessable, match=r"U\+D83E\) at character 2"):
        check_text("ab\ud83e")
    check_text("🧠\0 ")
