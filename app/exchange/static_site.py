"""An SAE as a static site: a folder of HTML with relative links only, which opens from a disk without a server.

    index.html            overview and the list of features; a script searches and sorts it
    list/2.html, …        the list in pages, for who has no JavaScript
    features/1042.html    one feature each
    assets/               sheets, font, scripts, and data.js: the list for the script

A script of a page from a disk may read no files, so the list comes as a script that sets a variable.
"""

import json
import math
import shutil
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from app.exchange.drawings import draw_activations, draw_densities
from app.exchange.features import Progress, Source
from app.paths import STATIC
from app.queries.examples import ExampleTokens, ExampleView
from app.queries.feature_list import MAX_LIMIT, FeatureFilter, FeatureRow, list_features
from app.queries.features import FeatureDetail
from app.queries.saes import DensityHistogram
from app.services.tokens import plain
from app.web.components import effect_text, example_lines, glossary, token_html, token_text
from app.web.components.example_lines import Example
from app.web.components.feature_view import feature_view, histogram, neighbour_pictures
from app.web.components.label_panel import ShownLabel
from app.web.components.sparklines import path as sparkline
from app.web.rendering import environment
from app.web.static import classic_script

ROWS = 50
"""Features on a page of the list."""

MOST_TOKENS = 500_000
"""Tokens of sequences that are kept as markup, about 100 bytes each."""

_STYLES = ("tokens", "base", "parts", "strips", "features", "labels", "saes", "export")
_FONT = "inter-5.3.0.latin-wght.woff2"
_FONT_LICENCE = "inter-5.3.0.LICENSE.txt"
_MOST_SNIPPETS = 20_000
"""Snippets of neighbours that are kept: a feature is the neighbour of a dozen others."""


async def write_site(source: Source, folder: Path, progress: Progress) -> None:
    """Write the site into `folder`, which is there and empty."""
    site = _Site(source, folder)
    site.copy_assets()
    await site.write_list()
    async for detail in source.features(progress):
        await site.write_feature(detail)


async def _pages(source: Source) -> AsyncIterator[list[FeatureRow]]:
    """Yield the pages of the list, most active first."""
    wanted, rows = set(source.numbers), list[FeatureRow]()
    filter = FeatureFilter(sort="density", limit=MAX_LIMIT)
    while True:
        page = await list_features(source.session, source.sae, filter)
        rows += [row for row in page.rows if row.index in wanted]
        while len(rows) >= ROWS:
            yield rows[:ROWS]
            del rows[:ROWS]
        if page.next_cursor is None:
            break
        filter = replace(filter, cursor=page.next_cursor)
    if rows:
        yield rows


@dataclass(frozen=True, slots=True)
class Flag:
    """A health flag, and how many features carry it."""

    name: str
    meaning: str
    count: int


class _Counts:
    """Counts of the exported features, which may be some of the SAE's."""

    def __init__(self, edges: Sequence[float]) -> None:
        """`edges` are those of the index's histogram of log10 density."""
        self.labelled = self.measured = self._dead = 0
        self._edges, self._densities = edges, [0] * (len(edges) - 1)
        self._health: Counter[str] = Counter()

    def add(self, rows: Iterable[FeatureRow]) -> None:
        """Count these features too."""
        for row in rows:
            self.labelled += row.label is not None
            self.measured += row.effect is not None
            self._health.update(row.health)
            if row.density > 0:
                place = bisect_right(self._edges, math.log10(row.density)) - 1
                self._densities[min(max(place, 0), len(self._densities) - 1)] += 1
            else:
                self._dead += 1

    def densities(self) -> DensityHistogram:
        """Return the histogram of log10 density."""
        return DensityHistogram(tuple(self._edges), tuple(self._densities), self._dead)

    def flags(self, meanings: Mapping[str, str]) -> list[Flag]:
        """Return the health flags with their counts."""
        return [Flag(glossary.health_name(flag), meaning, self._health[flag]) for flag, meaning in meanings.items()]


class _Links:
    """Addresses on a feature's page, from its folder; what was not exported has none."""

    here: str | None = None
    json: str | None = None
    probe: str | None = None
    origin = "../index.html#origin"
    lacking = "../index.html"

    def __init__(self, exported: frozenset[int]) -> None:
        self._exported = exported

    def feature(self, number: int) -> str | None:
        """Return the address of another feature."""
        return f"{number}.html" if number in self._exported else None

    def token(self, text: str) -> None:
        """Return nothing: no page lists the features of a token."""

    def topic(self, topic: str) -> None:
        """Return nothing: no page lists the features of a topic."""


@dataclass(slots=True)
class _Site:
    source: Source
    folder: Path
    texts: "_Texts" = field(default_factory=lambda: _Texts())
    snippets: dict[int, example_lines.Line] = field(default_factory=dict)
    exported: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self.exported = frozenset(self.source.numbers)

    def copy_assets(self) -> None:
        """Sheets, scripts and the font, at the same places to each other as on the site."""
        files = [f"css/{name}.css" for name in _STYLES] + ["js/theme.js", "icon.svg"]
        for name in (*files, f"vendor/{_FONT}", f"vendor/{_FONT_LICENCE}"):
            target = self.folder / "assets" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(STATIC / name, target)
        (self.folder / "assets/js/export.js").write_text(classic_script("js/export.js"), encoding="utf-8")

    async def write_list(self) -> None:
        """The pages of the list, the list for the script, and the index, whose counts are known at the end."""
        counts, first = _Counts(self.source.index.densities.edges), list[FeatureRow]()
        with (self.folder / "assets" / "data.js").open("w", encoding="utf-8") as script:
            script.write('window.SEESAE = {"rows":[')
            number = 0
            async for rows in _pages(self.source):
                number += 1
                counts.add(rows)
                data = ",".join(json.dumps(_data(row), separators=(",", ":")) for row in rows)
                script.write(data if number == 1 else f",{data}")
                if number == 1:
                    first = rows
                else:
                    self._write(f"list/{number}.html", "export/list.html", self._page(number, rows))
            script.write("]};\n")
        self._write("index.html", "export/index.html", self._page(1, first) | self._overview(counts))

    def _page(self, number: int, rows: Sequence[FeatureRow]) -> dict[str, Any]:
        """Return the rows and links of one page of the list."""
        total = len(self.source.numbers)
        last = math.ceil(total / ROWS)
        return {
            "number": number,
            "pages": _page_numbers(last, number),
            "last": last,
            "rows": rows,
            "total": total,
            "lines": {row.index: example_lines.cut(row.example, row.max) for row in rows if row.example},
        }

    def _overview(self, counts: _Counts) -> dict[str, Any]:
        """Return the summary that the first page shows beside the list."""
        sae = self.source.sae
        measures, more_measures = glossary.measures(sae.metrics)
        return {
            "labelled": counts.labelled,
            "measured_effects": counts.measured,
            "measures": [*measures, *more_measures],
            "not_counted": glossary.not_counted(sae),
            "density": draw_densities(counts.densities()),
            "flags": counts.flags(glossary.health(sae)),
        }

    async def write_feature(self, detail: FeatureDetail) -> None:
        """Write the page of one feature."""
        sae, numbers = self.source.sae, self.source.numbers
        place = bisect_left(numbers, detail.index)
        await self._find_snippets(detail)
        view = feature_view(
            sae,
            detail,
            [
                Example.of(view, detail.max, self.texts.whole(view, detail.max))
                for view in await self.source.examples(detail.index)
            ],
            links=_Links(self.exported),
            previous=numbers[place - 1] if place else None,
            next=numbers[place + 1] if place + 1 < len(numbers) else None,
            histogram=histogram(sae, detail, draw_activations),
            snippets=self.snippets,
        )
        labels = [ShownLabel(label) for label in detail.labels]
        self._write(f"features/{detail.index}.html", "export/feature.html", {"view": view, "labels": labels})

    async def _find_snippets(self, detail: FeatureDetail) -> None:
        """Find snippets of the feature's neighbours, and forget others where there are too many."""
        if len(self.snippets) > _MOST_SNIPPETS:
            self.snippets.clear()
        _, snippets = await neighbour_pictures(self.source.session, self.source.sae, detail, self.snippets)
        self.snippets |= snippets

    def _write(self, name: str, template: str, context: dict[str, Any]) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        sae, index = self.source.sae, self.source.index
        common = {
            "root": "../" * name.count("/"),
            "sae": sae,
            "index": index,
            "corpus": index.sequence_set.corpus,
            "health": glossary.health(sae),
        }
        text = environment().get_template(template).render(common | context)
        path.write_text(text, encoding="utf-8")


class _Texts:
    """Whole sequences as markup. Each comes in the examples of many features: only its shaded tokens differ."""

    def __init__(self) -> None:
        self._plain: dict[int, tuple[list[str], list[tuple[bool, int, int]]]] = {}
        self.tokens = 0
        """Of the sequences that are kept."""

    def whole(self, view: ExampleView, maximum: float) -> Markup:
        """The text of an example, shaded."""
        if view.sequence not in self._plain:
            if self.tokens + len(view.tokens) > MOST_TOKENS:
                self._plain.clear()
                self.tokens = 0
            self._plain[view.sequence] = self._prepared(view)
            self.tokens += len(view.tokens)
        plain_tokens, runs = self._plain[view.sequence]
        tokens = list(plain_tokens)
        for place in view.tokens.active_places():
            tokens[place] = token_html.multiline_token(token_text.token_at(view, place, maximum))
        parts = ("".join(tokens[start:end]) for _, start, end in runs)
        return Markup(  # noqa: S704 - each token is escaped
            "".join(
                f'<bdi dir="rtl">{part}</bdi>' if right_to_left else part
                for part, (right_to_left, _, _) in zip(parts, runs, strict=True)
            )
        )

    def _prepared(self, view: ExampleView) -> tuple[list[str], list[tuple[bool, int, int]]]:
        """Each token without shading, and the runs of one writing direction: from which token, to which."""
        bare = ExampleTokens(view.tokens.ids, view.tokens.start, {}, view.tokens.vocabulary)
        runs = token_text.sequence(replace(view, tokens=bare), 1.0)
        tokens = [token_html.multiline_token(token) for run in runs for token in run.tokens]
        bounds, start = [], 0
        for run in runs:
            bounds.append((run.right_to_left, start, start + len(run.tokens)))
            start += len(run.tokens)
        return tokens, bounds


def _page_numbers(last: int, here: int) -> list[int]:
    """Pages to link to: all of a few, else some of them, those beside this one, and the ends."""
    step = max(1, round(last / 24))
    return sorted({*range(1, last + 1, step), here - 1, here, here + 1, last} & set(range(1, last + 1)))


def _data(row: FeatureRow) -> list[Any]:
    """A row of the list as the script has it: what it shows, and as its second entry what it searches."""
    tokens = [plain(token.bytes) for token in row.top_tokens]
    label = row.label.explanation if row.label else ""
    return [
        row.index,
        " ".join([label, *tokens]).lower(),
        label,
        tokens[:4],
        _snippet(row.example) if row.example else None,
        sparkline(row.histogram),
        row.density,
        row.max,
        row.mean,
        list(row.health),
        -1 if row.effect is None or row.effect.ratio is None else row.effect.ratio,
        "" if row.effect is None else effect_text.short(row.effect),
        "" if row.effect is None else effect_text.sentence(row.effect),
    ]


def _snippet(view: ExampleView) -> tuple[str, str, str]:
    """An example as text: before its token, the token, after it."""
    here = view.position - view.start
    tokens = [token.bytes for token in view.tokens]
    parts = tokens[max(0, here - 8) : here], [tokens[here]], tokens[here + 1 : here + 9]
    before, token, after = (plain(b"".join(part)) for part in parts)
    return before, token, after
