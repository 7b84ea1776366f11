"""Templates as a whole, static addresses, vendored files, and colours that can be read."""

import hashlib
import json
import re
from collections import Counter
from importlib import import_module
from itertools import pairwise
from math import cos, radians, sin
from pathlib import Path
from pkgutil import iter_modules
from types import SimpleNamespace

import plotly.offline
import pytest
from fastapi import Request
from jinja2 import UndefinedError
from jinja2.meta import find_referenced_templates

from app.paths import STATIC, TEMPLATES
from app.queries.feature_list import MAX_QUERY
from app.services.lists import MAX_NOTE
from app.settings import Settings
from app.web import components, rendering
from app.web.components import sparklines

VENDOR = STATIC / "vendor"
MANIFEST = json.loads((VENDOR / "manifest.json").read_text())
TEMPLATE_FILES = sorted(TEMPLATES.rglob("*.html"))
PAGE_TEMPLATES = [path for path in TEMPLATE_FILES if '{% extends "base.html" %}' in path.read_text()]
NOUN_SHEETS = {path.stem for path in (STATIC / "css").glob("*.css")} - {"tokens", "base", "parts", "strips", "export"}
"""Sheets that only some pages of the site link."""
MAX_LINE = 130


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode().lower(), value.encode()) for name, value in headers.items()]
    app = SimpleNamespace(state=SimpleNamespace(settings=Settings()))
    return Request({"type": "http", "method": "GET", "path": "/x", "query_string": b"", "headers": raw, "app": app})


# --- templates


@pytest.mark.parametrize("path", TEMPLATE_FILES, ids=lambda path: str(path.relative_to(TEMPLATES)))
def test_templates_keep_to_the_content_security_policy(path: Path) -> None:
    source = path.read_text()
    rendering.environment().get_template(str(path.relative_to(TEMPLATES)))
    assert not re.search(r"\son[a-z]+=[\"']", source), "an inline event handler"
    assert "hx-on" not in source
    assert "js:" not in source
    assert not re.search(r"javascript:", source, re.IGNORECASE)
    assert "| safe" not in source
    assert "|safe" not in source
    for script in re.findall(r"<script([^>]*)>", source):
        assert "src=" in script or 'type="application/json"' in script
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", source), "something from another host"


@pytest.mark.parametrize("path", TEMPLATE_FILES, ids=lambda path: str(path.relative_to(TEMPLATES)))
def test_templates_take_lengths_of_fields_from_limits(path: Path) -> None:
    assert not re.search(r"maxlength=[\"']?\d", path.read_text())


def test_no_template_has_a_line_that_is_too_long_to_review() -> None:
    long = [
        f"{path.relative_to(TEMPLATES)}:{number}: {len(line)} characters"
        for path in TEMPLATE_FILES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > MAX_LINE
    ]
    assert not long, "\n".join(long)


def test_limits_are_those_of_the_services() -> None:
    lengths = rendering.environment().from_string("{{ limits.list_note }} {{ limits.query }}").render()
    assert lengths == f"{MAX_NOTE} {MAX_QUERY}"


def test_an_undefined_variable_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        rendering.environment().from_string("{{ nothing_of_this_name }}").render()


def test_everything_is_escaped() -> None:
    assert rendering.environment().from_string("{{ x }}").render(x="<b>\"'&") == "&lt;b&gt;&#34;&#39;&amp;"


# --- page or fragment


def test_htmx_gets_a_fragment_but_a_page_when_it_restores_history() -> None:
    assert not rendering.wants_fragment(request())
    assert rendering.wants_fragment(request(HX_Request="true"))
    assert not rendering.wants_fragment(request(HX_Request="true", HX_History_Restore_Request="true"))


def test_an_error_is_a_page_or_for_htmx_a_notice() -> None:
    page = rendering.render_error(request(), 404, "Not found", "No <b> here.")
    assert page.status_code == 404
    assert page.headers["Vary"] == "HX-Request, Cookie"
    assert b"<!doctype html>" in page.body
    assert b"No &lt;b&gt; here." in page.body
    notice = rendering.render_error(request(HX_Request="true"), 503, "Not available", "Later.")
    assert notice.status_code == 503
    assert b"<html" not in notice.body
    assert notice.headers["HX-Retarget"] == "#notice"


# --- static files


def test_static_addresses_change_with_the_content() -> None:
    digest = hashlib.sha256((STATIC / "css/tokens.css").read_bytes()).hexdigest()
    assert rendering.static_url("css/tokens.css") == f"/static/css/tokens.{digest[:12]}.css"


def test_templates_name_static_files_that_exist() -> None:
    for path in TEMPLATE_FILES:
        for name in re.findall(r"static_url\('([^']+)'\)", path.read_text()):
            assert (STATIC / name).is_file(), name
        for name in linked_sheets(path.read_text()):
            assert (STATIC / f"css/{name}.css").is_file(), name
        for names in re.findall(r"module\(([^)]*)\)", path.read_text()):
            for name in re.findall(r'"([\w-]+)"', names):
                assert (STATIC / f"js/{name}.js").is_file(), name


def test_modules_come_with_preload_links_of_their_imports() -> None:
    html = str(rendering.module("probe", "announce"))
    element, format = (rendering.static_url(f"js/lib/{name}.js") for name in ("element", "format"))
    assert html.count(f'<link rel="modulepreload" href="{element}">') == html.count(element) == 1
    assert f'<link rel="modulepreload" href="{format}">' in html
    assert html.endswith(f'<script type="module" src="{rendering.static_url("js/announce.js")}"></script>')


def linked_sheets(source: str) -> set[str]:
    """Sheets that a template links."""
    return {name for names in re.findall(r"stylesheet\(([^)]*)\)", source) for name in re.findall(r'"(\w+)"', names)}


def with_fragments(name: str) -> dict[str, str]:
    """Sources of a template and of all that it includes, imports or extends, by name."""
    environment = rendering.environment()
    sources, waiting = {}, [name]
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name] = (TEMPLATES / name).read_text()
            waiting += [other for other in find_referenced_templates(environment.parse(sources[name])) if other]
    return sources


def words(attribute: str, source: str) -> set[str]:
    """Classes or ids that a template writes out."""
    without_statements = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", " ", source)
    return {word for value in re.findall(rf'\b{attribute}="([^"]*)"', without_statements) for word in value.split()}


def selectors(sheet: str) -> list[str]:
    """Every selector of a sheet, also within @media."""
    source = re.sub(r"/\*.*?\*/", "", (STATIC / f"css/{sheet}.css").read_text(), flags=re.DOTALL)
    return [found.strip() for found in re.findall(r"([^{};]+)\{", source) if not found.strip().startswith("@")]


@pytest.mark.parametrize("path", PAGE_TEMPLATES, ids=lambda path: str(path.relative_to(TEMPLATES)))
def test_a_page_links_the_sheets_of_the_fragments_that_it_shows(path: Path) -> None:
    sources = with_fragments(str(path.relative_to(TEMPLATES)))
    written = {f".{word}" for source in sources.values() for word in words("class", source)}
    written |= {f"#{word}" for source in sources.values() for word in words("id", source)}
    written |= {f"[{word}" for source in sources.values() for word in re.findall(r"\bdata-[\w-]+", source)}
    linked = {sheet for source in sources.values() for sheet in linked_sheets(source)}
    missing = {
        f"{sheet}: {selector}"
        for sheet in NOUN_SHEETS - linked
        for selector in selectors(sheet)
        if (needed := set(re.findall(r"(?:[.#]|\[data-)[a-z][\w-]*", selector)) - {".js", ".htmx-request"})
        and needed <= written
    }
    assert not missing


def test_sheets_name_files_that_exist() -> None:
    for sheet in (STATIC / "css").glob("*.css"):
        for name in re.findall(r'url\("([^"]+)"\)', sheet.read_text()):
            assert (sheet.parent / name).is_file(), name


@pytest.mark.parametrize("entry", MANIFEST, ids=lambda entry: entry["file"])
def test_vendored_files_are_what_the_manifest_says(entry: dict[str, str]) -> None:
    content = (VENDOR / entry["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert entry["version"] in entry["file"]
    assert len((VENDOR / entry["licence_file"]).read_text()) > 300
    assert entry["version"] in (TEMPLATES.parent / "NOTICE").read_text()


def test_every_vendored_file_is_in_the_manifest() -> None:
    known = {name for entry in MANIFEST for name in (entry["file"], entry["licence_file"])}
    assert {path.name for path in VENDOR.iterdir()} == known | {"manifest.json"}


def test_vendored_plotly_has_the_version_that_plotly_py_expects() -> None:
    (version,) = (entry["version"] for entry in MANIFEST if entry["package"].startswith("plotly.js"))
    assert plotly.offline.get_plotlyjs_version() == version


def test_the_font_is_small() -> None:
    assert sum(path.stat().st_size for path in VENDOR.glob("*.woff2")) < 60_000


# --- sparklines


def test_sparkline_is_one_closed_path_within_its_box() -> None:
    path = sparklines.path([0, 1, 100, 25, 0])
    assert path.startswith("M0 20")
    assert path.endswith("z")
    assert "v-20.0h16" in path or "v-18.0h16" in path  # the peak, from the bar of one before it
    drops = [float(step) for step in re.findall(r"v(-?[\d.]+)", path)]
    assert min(sum(drops[: i + 1]) for i in range(len(drops))) >= -20


def test_an_empty_sparkline_is_a_base_line() -> None:
    assert sparklines.path([0] * 50) == sparklines.path([]) == "M0 19h80v1h-80z"


# --- colours


def luminance(lightness: float, chroma: float, hue: float) -> float:
    """Relative luminance (WCAG 2) of an OKLCH colour, clipped to sRGB."""
    a, b = chroma * cos(radians(hue)), chroma * sin(radians(hue))
    long, medium, short = (
        (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3,
        (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3,
        (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3,
    )
    rgb = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    red, green, blue = (min(1.0, max(0.0, channel)) for channel in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def oklch(theme: int) -> dict[str, tuple[float, float, float]]:
    """Each colour of the sheet, in the light (0) or dark (1) theme."""
    found = {}
    sheet = (STATIC / "css/tokens.css").read_text()
    for name, *pair in re.findall(r"--([\w-]+): light-dark\(oklch\(([^)]+)\), oklch\(([^)]+)\)\)", sheet):
        lightness, chroma, hue = pair[theme].split()
        found[name] = (float(lightness.rstrip("%")) / 100, float(chroma), float(hue))
    return found


def tokens(theme: int) -> dict[str, float]:
    """Luminance of each colour of the sheet."""
    return {name: luminance(*colour) for name, colour in oklch(theme).items()}


def contrast(one: float, other: float) -> float:
    light, dark = max(one, other), min(one, other)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(theme: int) -> None:
    colour = tokens(theme)
    for ground in ("paper", "paper-raised", "paper-sunk"):
        for ink in ("ink", "ink-soft", "ink-faint", "accent-ink", "positive", "negative", "error", "good"):
            assert contrast(colour[ink], colour[ground]) >= 4.5, f"{ink} on {ground}"
        assert contrast(colour["control-line"], colour[ground]) >= 3
    assert contrast(colour["on-accent"], colour["accent"]) >= 4.5
    assert contrast(colour["error"], colour["error-wash"]) >= 4.5
    assert contrast(colour["accent-ink"], colour["accent-wash"]) >= 4.5
    for hue in range(1, 7):
        assert contrast(colour["ink"], colour[f"cat-{hue}"]) >= 4.5


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_shaded_text_has_enough_contrast_and_shades_differ(theme: int) -> None:
    colour = tokens(theme)
    for step in range(1, 7):
        ink = colour["act-ink-high"] if step >= 5 else colour["ink"]
        assert contrast(ink, colour[f"act-{step}"]) >= 4.5, f"step {step}"
    lightness = [oklch(theme)[name][0] for name in ("paper", *(f"act-{step}" for step in range(1, 7)))]
    steps = [abs(one - other) for one, other in pairwise(lightness)]
    assert lightness == sorted(lightness, reverse=theme == 0)
    assert min(steps) > 0.03


def test_no_filter_takes_the_name_of_another() -> None:
    modules = [import_module(f"app.web.components.{module.name}") for module in iter_modules(components.__path__)]
    names = Counter(name for module in modules for name in getattr(module, "FILTERS", ()))
    assert {name: times for name, times in names.items() if times > 1} == {}
