"""Exports of SAEDashboard and Neuronpedia: what becomes of them, what is refused, and ours read back."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import transaction
from app.errors import Conflict, NotFound, NoWeights, Unprocessable
from app.exchange.features import export_features
from app.exchange.neuronpedia import files
from app.exchange.neuronpedia.files import find, is_export
from app.exchange.neuronpedia.release import write_neuronpedia
from app.pipeline.index import IndexParams
from app.queries import saes
from app.queries.examples import ExampleView, get_examples
from app.queries.features import FeatureDetail, feature_numbers, features_around, get_feature
from app.queries.labels import label_histories, list_labels
from app.queries.saes import SaeDetail
from app.runs.job_context import JobContext
from app.services.tokens import api_texts
from app.tables import RunUse, Suggestion
from tests.app.pipeline.running import EXPORTS, import_statistics, run_to_end
from tests.factories import add_label, make_sae
from tests.tiny import CORPUS_FILE

DASHBOARD, RELEASE = EXPORTS / "saedashboard", EXPORTS / "release"


async def sae_of(ctx: JobContext, slug: str) -> SaeDetail:
    async with ctx.sessions() as session:
        detail = await saes.get_sae(session, slug)
    assert detail is not None
    return detail


async def shown(ctx: JobContext, slug: str, number: int) -> tuple[FeatureDetail, list[ExampleView]]:
    """A feature and its examples, as its page has them."""
    async with ctx.sessions() as session:
        sae = await saes.get_sae(session, slug)
        assert sae is not None
        detail = await get_feature(session, sae, number)
        assert detail is not None
        return detail, await get_examples(session, sae, number)


def stated(number: int) -> dict[str, Any]:
    """A feature as SAEDashboard's batches have it."""
    batches = [json.loads(path.read_text()) for path in sorted(DASHBOARD.glob("batch-*.json"))]
    return next(each for batch in batches for each in batch["features"] if each["feature_index"] == number)


async def test_a_dashboard_becomes_an_index_without_weights(ctx: JobContext) -> None:
    result = await import_statistics(ctx, DASHBOARD)
    assert (result["sae"], result["features"], result["model"]) == ("gpt2-small-9-res-jb", 5, "gpt2-small")
    sae = await sae_of(ctx, result["sae"])
    assert sae.index is not None
    assert (sae.d_sae, sae.indexed, sae.has_weights, sae.model.has_weights) == (10, 5, False, False)
    assert (sae.hook, sae.model.name, sae.index.tokens) == ("9-res-jb", "gpt2-small (no weights)", 24 * 12)
    assert sae.index.sequence_set.corpus.licence == "not stated by the export"
    assert sae.config["imported"]["lacks"] == ["weights", "hook", "features", "near"]
    async with ctx.sessions() as session:
        assert await feature_numbers(session, sae) == [0, 1, 3, 6, 7]
        assert await features_around(session, sae, 3) == (1, 6)
        assert await features_around(session, sae, 7) == (6, None)
        assert await get_feature(session, sae, 2) is None


@pytest.mark.parametrize("number", [0, 1, 3, 6])
async def test_a_feature_has_the_statistics_of_the_dashboard(ctx: JobContext, number: int) -> None:
    await import_statistics(ctx, DASHBOARD)
    detail, examples = await shown(ctx, "gpt2-small-9-res-jb", number)
    said = stated(number)
    heights = said["freq_hist_data_bar_heights"]
    assert detail.count == sum(heights)
    assert detail.density == pytest.approx(sum(heights) / 288)
    assert detail.max == pytest.approx(max(max(each["values"]) for each in said["activations"]))
    assert list(detail.histogram.counts)[-len(heights) :] == heights
    assert not any(detail.histogram.counts[: -len(heights)])
    middles = said["freq_hist_data_bar_values"]
    ours = [(low + high) / 2 for low, high in zip(detail.histogram.edges, detail.histogram.edges[1:], strict=False)]
    assert ours[-len(heights) :] == pytest.approx(middles, abs=middles[1] - middles[0])
    assert [api_texts([each.bytes])[0] for each in detail.promoted] == said["pos_str"]
    assert [each.logit for each in detail.suppressed] == said["neg_values"]
    assert (detail.coactive, detail.near, detail.health, detail.topics) == ((), (), (), ())
    top = [each for each in examples if each.band == 0]
    strongest = max((each for each in said["activations"]), key=lambda each: max(each["values"]))
    assert [api_texts([token.bytes])[0] for token in top[0].tokens] == strongest["tokens"]
    assert [token.activation for token in top[0].tokens] == pytest.approx(strongest["values"])
    for example in examples:
        assert example.tokens[example.position].activation == pytest.approx(example.activation)
        if example.band:
            low, high = detail.band_edges[example.band - 1 : example.band + 1]
            assert low - 1e-3 <= example.activation <= high + 1e-3


async def test_dead_features_are_imported_and_skipped_ones_are_not(ctx: JobContext) -> None:
    await import_statistics(ctx, DASHBOARD)
    detail, examples = await shown(ctx, "gpt2-small-9-res-jb", 7)
    assert (detail.count, detail.density, examples) == (0, 0, [])
    sae = await sae_of(ctx, "gpt2-small-9-res-jb")
    assert sae.index is not None
    assert sae.index.densities.dead == 1  # of ten, four have nothing said of them


async def test_a_release_brings_labels_neighbours_and_its_hook_point(ctx: JobContext) -> None:
    result = await import_statistics(ctx, RELEASE, name="theirs")
    assert (result["labels"], result["suggestions"]) == (1, 2)
    sae = await sae_of(ctx, "theirs")
    assert (sae.hook, sae.architecture, sae.d_sae, sae.model.n_layers) == ("resid_pre.9", "standard", 10, 12)
    assert sae.config["imported"]["released"] == "jbloom/GPT2-Small-SAEs"
    detail, examples = await shown(ctx, "theirs", 1)
    assert [(other.index, other.cosine) for other in detail.near] == [(3, 0.5)]  # not itself, and none that is absent
    assert [(label.author, label.explanation) for label in detail.labels] == [("neuronpedia:someone", "foxes")]
    assert [(found.model, found.text) for found in detail.suggestions if found.source == "model"] == [
        ("oai_token-act-pair/gpt-4o-mini", "<b>brown</b> things")
    ]
    assert (sae.labelled, sae.label_changes) == (1, 2)
    async with ctx.sessions() as session:
        label = (await list_labels(session, sae.id, 1))[0]
        assert [each.explanation for each in (await label_histories(session, [label]))[label.id]] == ["foxes"]
    for example in examples:
        if example.band:  # the release does not say which token an example is for: it is one within the interval
            low, high = detail.band_edges[example.band - 1 : example.band + 1]
            assert low - 1e-3 <= example.activation <= high + 1e-3


async def test_importing_an_export_again_changes_nothing(ctx: JobContext) -> None:
    async def rows() -> list[int]:
        tables = (
            "sae",
            "language_model",
            "token",
            "corpus",
            "sequence_set",
            "feature_index",
            "feature",
            "label",
            "suggestion",
        )
        async with ctx.sessions() as session:
            return [await session.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in tables]

    await import_statistics(ctx, RELEASE)
    before = await rows()
    result = await import_statistics(ctx, RELEASE)
    assert (await rows(), result["labels"]) == (before, 0)
    assert (await sae_of(ctx, "gpt2-small-9-res-jb")).label_changes == 2


async def test_exports_of_one_model_share_their_tokens(ctx: JobContext) -> None:
    await import_statistics(ctx, DASHBOARD, name="one")
    await import_statistics(ctx, RELEASE, name="two")
    one, two = await sae_of(ctx, "one"), await sae_of(ctx, "two")
    assert one.model.id == two.model.id
    ours, _ = await shown(ctx, "one", 3)
    theirs, _ = await shown(ctx, "two", 3)
    assert [each.id for each in ours.promoted] == [each.id for each in theirs.promoted]
    with pytest.raises(Conflict, match="one"):
        await import_statistics(ctx, RELEASE, name="one")
    assert (await sae_of(ctx, "one")).index == one.index


async def test_probing_and_indexing_without_weights_are_refused(ctx: JobContext) -> None:
    slug = (await import_statistics(ctx, DASHBOARD))["sae"]
    with pytest.raises(NoWeights, match=slug):
        await run_to_end(ctx, "index", IndexParams(sae=slug, corpus=str(CORPUS_FILE)))


# --- what is refused


def first_batch(change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "batch-0.json"
        path.write_text(change(path.read_text()))

    return damage


def feature(**changes: Any) -> Callable[[Path], None]:
    """The first feature with other values."""

    def change(text: str) -> str:
        batch = json.loads(text)
        batch["features"][0] |= changes
        return json.dumps(batch)

    return first_batch(change)


def example(**changes: Any) -> Callable[[Path], None]:
    def change(text: str) -> str:
        batch = json.loads(text)
        batch["features"][0]["activations"][0] |= changes
        return json.dumps(batch)

    return first_batch(change)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (first_batch(lambda text: text[: len(text) // 2]), r"^batch-0\.json: Invalid JSON: EOF"),
        (first_batch(lambda text: "[" * 100_000), "recursion limit"),
        (first_batch(lambda text: "[]"), "batch-0.json"),
        (feature(freq_hist_data_bar_heights=[1.0]), "freq_hist_data_bar_heights has 1 entries"),
        (feature(pos_str=["a"], pos_values=[float("nan")]), "features.0.pos_values.0: .*finite"),
        (feature(pos_str=["a"], pos_values=[1e60]), "features.0.pos_values.0: .*less than"),
        (feature(frac_nonzero=1.5), "features.0.frac_nonzero"),
        (feature(feature_index=10**12), "features.0.feature_index"),
        (feature(feature_index=-1), "features.0.feature_index"),
        (feature(feature_index=3), "feature 3 is there twice"),
        (feature(freq_hist_data_bar_heights=[3e9], freq_hist_data_bar_values=[1.0]), "bar_heights.0"),
        (example(tokens=["a"], values=[1.0, 2.0]), "activations.0: tokens has 1 entries and values 2"),
        (example(tokens=[7], values=[1.0]), "activations.0.tokens.0: .*string"),
        (example(tokens=["a"], values=["many"]), "activations.0.values.0"),
        (first_batch(lambda text: text.replace('"tokens": ["', '"tokens": ["\\ud800', 1)), "Invalid JSON"),
        (first_batch(lambda text: text.replace("gpt2-small", "other", 1)), "batch-1.json: it is of gpt2-small"),
    ],
)
async def test_a_damaged_export_is_refused_in_one_line_and_nothing_is_stored(
    ctx: JobContext, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(DASHBOARD, folder)
    damage(folder)
    with pytest.raises(Unprocessable, match=message) as refused:
        await import_statistics(ctx, folder)
    assert "\n" not in str(refused.value)
    async with ctx.sessions() as session:
        for table in ("sae", "language_model", "corpus", "feature_index"):
            assert await session.scalar(text(f"SELECT count(*) FROM {table}")) == 0
    assert list(ctx.artifacts.root.iterdir()) == []


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ('{"model_id": "a", "features": []}', "describes no feature"),
        ('{"features": [{"feature_index": 0}]}', "`model`"),
    ],
)
async def test_an_export_that_lacks_required_fields_is_refused(
    ctx: JobContext, tmp_path: Path, batch: str, message: str
) -> None:
    (tmp_path / "batch-0.json").write_text(batch)
    with pytest.raises(Unprocessable, match=message):
        await import_statistics(ctx, tmp_path)


async def test_the_smallest_export_is_imported(ctx: JobContext, tmp_path: Path) -> None:
    (tmp_path / "batch-0.json").write_text('{"features": [{"feature_index": 5}]}')
    await import_statistics(ctx, tmp_path / "batch-0.json", model="a/b", name="least")
    detail, examples = await shown(ctx, "least", 5)
    assert (detail.count, detail.max, examples, detail.histogram.counts) == (0, 0, [], (0,) * 50)


async def test_a_damaged_gzip_is_refused(ctx: JobContext, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(RELEASE, folder)
    path = folder / "activations" / "batch-0.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(Unprocessable, match=r"^activations/batch-0.jsonl.gz is damaged after line \d+"):
        await import_statistics(ctx, folder)


async def test_a_line_without_an_end_is_refused(
    ctx: JobContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_MOST_LINE", 1000)
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "batch-0.jsonl.gz").write_bytes(gzip.compress(b" " * 10_000))
    with pytest.raises(Unprocessable, match="line 1 is longer than a record can be"):
        await import_statistics(ctx, tmp_path)


async def test_hostile_tokens_are_kept_as_they_are(ctx: JobContext, tmp_path: Path) -> None:
    shutil.copytree(DASHBOARD, tmp_path / "export")
    tokens = ["<script>alert(1)</script>", "a\0b", "\u202e", "", "\ufffd"]
    example(tokens=tokens, values=[0.0, 99.0, 1.0, 0.0, 2.0], qualifying_token_index=1)(tmp_path / "export")
    await import_statistics(ctx, tmp_path / "export")
    _, examples = await shown(ctx, "gpt2-small-9-res-jb", 0)
    assert [token.bytes.decode() for token in examples[0].tokens] == tokens


async def test_a_missing_number_of_tokens_is_derived_from_densities(ctx: JobContext, tmp_path: Path) -> None:
    shutil.copytree(RELEASE, tmp_path / "export")
    (tmp_path / "export" / "source.jsonl").unlink()
    result = await import_statistics(ctx, tmp_path / "export")
    assert result["tokens"] == pytest.approx(288, abs=1)
    assert any("how many tokens" in note for note in result["notes"])
    assert "tokens" in (await sae_of(ctx, result["sae"])).config["imported"]["lacks"]


# --- what is taken for an export


def test_exports_are_recognised_by_their_file_names(tmp_path: Path) -> None:
    assert is_export(str(DASHBOARD))
    assert is_export(str(DASHBOARD / "batch-0.json"))
    assert is_export(str(RELEASE))
    assert is_export(str(EXPORTS))
    assert not is_export("google/gemma-scope-2b-pt-res")
    (tmp_path / "cfg.json").write_text("{}")
    assert not is_export(str(tmp_path))
    assert not is_export(str(tmp_path / "cfg.json"))


def test_a_folder_of_several_exports_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match=r"holds 2 exports \(release, saedashboard\)"):
        find(str(EXPORTS))
    with pytest.raises(NotFound, match="There is no"):
        find(str(tmp_path / "nowhere"))
    with pytest.raises(Unprocessable, match="holds no export"):
        find(str(tmp_path))
    shutil.copytree(RELEASE, tmp_path / "models" / "9-res-jb")
    assert find(str(tmp_path / "models")).root.name == "9-res-jb"


# --- ours, out and back


async def test_our_own_export_is_the_same_when_imported_again(
    ctx: JobContext, engine: AsyncEngine, tmp_path: Path
) -> None:
    made = await make_sae(engine, features=24, sequences=60)
    async with transaction(ctx.sessions) as session:
        await add_label(session, made.sae, 2, "rivers & <b>lakes</b>")
        await add_label(session, made.sae, 2, "not yet", author="bob", status="draft")
        for suggested in (
            {"key": "own", "model": "org/model", "prompt": "abc", "text": "a <i>machine</i> says"},
            {"key": "theirs", "model": "oai/gpt", "prompt": "", "text": "elsewhere"},
        ):
            session.add(Suggestion(sae_id=made.sae.id, feature=2, source="model", **suggested))
    await export_features(
        ctx.sessions, made.sae.slug, write_neuronpedia, tmp_path / "out", progress=lambda done, total: None
    )
    result = await import_statistics(ctx, tmp_path / "out", name="back")
    assert (result["features"], result["hook"], result["labels"]) == (24, "resid_post.1", 1)
    back = await sae_of(ctx, "back")
    assert back.index is not None
    assert made.sae.index is not None
    assert "CC0-1.0. Nobody wrote these sentences." in back.index.sequence_set.corpus.attribution

    for number in range(24):
        went, examples = await shown(ctx, made.sae.slug, number)
        came, returned = await shown(ctx, "back", number)
        assert (came.count, came.density, came.max) == (went.count, went.density, went.max)
        assert came.histogram.counts == went.histogram.counts
        assert [each.logit for each in came.promoted] == [each.logit for each in went.promoted]
        assert [(each.index, each.cosine) for each in came.near] == [(each.index, each.cosine) for each in went.near]
        whole_bands = len({each.band for each in examples}) == 6 and len(set(went.band_edges)) == 6
        if whole_bands:
            assert came.band_edges == went.band_edges
        told = lambda each, whole_bands=whole_bands: (  # noqa: E731
            each.band if whole_bands else min(each.band, 1),
            each.position,
            each.activation,
            "".join(api_texts([token.bytes for token in each.tokens])),
            [token.activation for token in each.tokens],
        )
        assert sorted(map(told, returned)) == sorted(map(told, examples))
    labels = (await shown(ctx, "back", 2))[0].labels
    assert [(label.author, label.explanation) for label in labels] == [("neuronpedia:ada", "rivers & <b>lakes</b>")]
    models = [found for found in (await shown(ctx, "back", 2))[0].suggestions if found.source == "model"]
    assert {(found.model, found.text) for found in models} == {
        ("seesae/org/model", "a <i>machine</i> says"),
        ("oai/gpt", "elsewhere"),
    }


async def test_an_import_notes_what_it_uses(ctx: JobContext) -> None:
    result = await import_statistics(ctx, DASHBOARD)
    sae = await sae_of(ctx, result["sae"])
    assert sae.index is not None
    async with ctx.sessions() as session:
        used = set(await session.scalars(select(RunUse.subject)))
    assert used == {f"sae {sae.id}", f"model {sae.model.id}", f"corpus {sae.index.sequence_set.corpus.id}"}
