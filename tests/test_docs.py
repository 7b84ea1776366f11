"""The docs are held to the code."""

import re
from pathlib import Path

from app.settings import PREFIX, Settings

CHECKOUT = Path(__file__).parent.parent
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]


def test_settings_page_lists_every_setting() -> None:
    page = (CHECKOUT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.+) \|$", page, flags=re.MULTILINE))
    assert rows == {PREFIX + name.upper(): field.description for name, field in Settings.model_fields.items()}


def test_links_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(
            r"\]\(([^)#]+)(?:#[^)]*)?\)|<img[^>]* src=\"([^\"]+)\"", page.read_text(encoding="utf-8")
        ):
            link = target[0] or target[1]
            if not link.startswith(("http://", "https://")) and not (page.parent / link).exists():
                broken.append(f"{page.name}: {link}")
    assert broken == []
