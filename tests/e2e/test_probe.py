"""The probe in a real browser, over a real tiny model, SAE and inference service; then with that service gone."""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from playwright.async_api import Page, expect
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.main import create_app
from app.queries.saes import SaeRow, register_sae
from app.settings import Settings
from sae_core.checkpoints import save_sae
from sae_core.models import LanguageModel, load_model
from tests.app.inference.dictionaries import Dictionary, make_dictionary, publish, random_sae
from tests.core.test_chat import CHATML
from tests.e2e.conftest import Problems
from tests.tiny import tiny_tokenizer
from tests.web.serving import serving_inference

pytestmark = pytest.mark.browser

PROMPT = "It was the best of times,\nit was the worst of times — and <b>nothing</b> more."


async def test_probe_pin_features_inspect_a_token_and_lose_inference(
    page: Page,
    problems: Problems,
    engine: AsyncEngine,
    settings: Settings,
    serve: Callable[[FastAPI], str],
    dictionary: Dictionary,
) -> None:
    sae = await publish(engine, dictionary)
    with serving_inference(settings, dictionary) as answering:
        site = serve(create_app(answering))

        await page.goto(f"{site}/saes/{sae.slug}/probe")
        await page.locator("[data-fill]").first.click()
        assert await page.input_value("#text") != ""
        await page.fill("#text", PROMPT)
        await page.locator("#text").press("Control+Enter")
        strip = page.locator("[data-tokens]")
        await expect(strip).to_be_visible()
        shown = await strip.inner_text()
        assert "<b>nothing</b> more." in shown
        assert "times,↵\nit was" in shown
        assert page.url == f"{site}/saes/{sae.slug}/probe"  # the prompt is not in the address

        # One feature shades in the ramp, two or more in hues of their own, never more than six.
        pins = page.locator(".ranks [data-pin]")
        assert await page.locator(".ranks [aria-pressed=true]").count() == 1
        await expect(strip.locator(".top")).to_have_count(1)
        await expect(strip.locator(".a6, .a5, .a4, .a3, .a2, .a1").first).to_be_visible()
        await pins.nth(1).click()
        await expect(page.locator(".probe-key")).to_have_count(2)
        await expect(strip.locator(".pinned.c2").first).to_be_visible()
        for i in range(2, 8):
            await pins.nth(i).click()
        await expect(page.locator(".ranks [aria-pressed=true]")).to_have_count(6)
        for i in range(6):
            await pins.nth(i).click()
        await expect(page.locator("[data-legend]")).to_have_text("No feature is switched on.")

        # A token by keyboard: its features, each of which can be switched on.
        await strip.locator(".t[tabindex='0']").focus()
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("Enter")
        panel = page.locator("[data-token-panel]")
        await expect(panel.locator("li")).to_have_count(8)
        await panel.locator("[data-pin]").first.click()
        await expect(page.locator("[data-legend]")).to_contain_text("Shaded by")

        await page.fill("#text", "word " * 200)
        await page.get_by_role("button", name="Probe", exact=True).click()
        await expect(page.locator("#result [role=alert]")).to_contain_text("100")
        problems.forgive("413")
        await page.fill("#text", "")
        await page.get_by_role("button", name="Probe", exact=True).click()
        await expect(page.locator("#result [role=alert]")).to_contain_text("empty")
        problems.forgive("422")

    await page.fill("#text", PROMPT)
    await page.get_by_role("button", name="Probe", exact=True).click()
    await expect(page.locator("#result [role=alert]")).to_contain_text("the rest of the site works")
    await expect(page.locator("#text")).to_have_value(PROMPT)
    problems.forgive("503")


async def test_a_saved_probe_leads_to_features_and_many_texts_to_a_table(
    page: Page,
    engine: AsyncEngine,
    settings: Settings,
    serve: Callable[[FastAPI], str],
    dictionary: Dictionary,
) -> None:
    sae = await publish(engine, dictionary)
    with serving_inference(settings, dictionary) as answering:
        site = serve(create_app(answering))
        await page.goto(f"{site}/saes/{sae.slug}/probe")
        await page.fill("#text", PROMPT)
        await page.locator("#text").press("Control+Enter")
        await page.get_by_text("Save this probe").click()
        await page.fill("#title", "Best of times")
        await page.get_by_role("button", name="Save", exact=True).click()
        await page.wait_for_url("**/probe/saved/*")
        await page.locator("[data-legend] a").click()
        await page.wait_for_url(f"**/saes/{sae.slug}/features/*")

        await page.goto(f"{site}/saes/{sae.slug}/probe/texts")
        await page.fill("#text", "It was the best of times\nThe nurse said")
        await page.locator("#text").press("Control+Enter")
        await expect(page.locator(".texts-features td.cell .t").first).to_be_visible()
        async with page.expect_download() as download:
            await page.get_by_role("button", name="Download all as CSV").click()
        assert (await download.value).suggested_filename == f"{sae.slug}-probe.csv"
        await page.get_by_role("button", name="The nurse said").click()
        await expect(page.locator("[data-probe]")).to_be_visible()


async def test_a_model_that_is_being_loaded_is_named_until_the_result_follows(
    page: Page,
    problems: Problems,
    engine: AsyncEngine,
    settings: Settings,
    serve: Callable[[FastAPI], str],
    dictionary: Dictionary,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_load = threading.Event()

    def load_slowly(source: str, **options: Any) -> LanguageModel:
        assert may_load.wait(60)
        return load_model(source, **options)

    monkeypatch.setattr("app.inference.residency.load_model", load_slowly)
    monkeypatch.setattr("app.inference.loading.PATIENCE", 0.1)
    sae = await publish(engine, dictionary)
    with serving_inference(settings, dictionary) as answering:
        site = serve(create_app(answering))
        await page.goto(f"{site}/saes/{sae.slug}/probe")
        await page.fill("#text", PROMPT)
        await page.locator("#text").press("Control+Enter")
        waiting = page.locator("#result form.notice")
        await expect(waiting).to_contain_text("Loading the model")
        await expect(waiting).to_contain_text(re.compile("The model tiny is being loaded: [1-9]"))  # it has asked again
        assert await page.input_value("#text") == PROMPT
        may_load.set()
        await expect(page.locator("[data-tokens]")).to_be_visible()
    problems.forgive("503")


async def test_compare_two_prompts_and_probe_a_conversation_beside_another_layer(
    page: Page,
    problems: Problems,
    engine: AsyncEngine,
    settings: Settings,
    serve: Callable[[FastAPI], str],
    tmp_path: Path,
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    dictionary = make_dictionary(tmp_path, tokenizer)
    sae = await publish(engine, dictionary)
    await add_sae_beside(engine, dictionary, sae.model.id)
    with serving_inference(settings, dictionary) as answering:
        site = serve(create_app(answering))
        await page.goto(f"{site}/saes/{sae.slug}/probe")
        await page.get_by_role("link", name="Two prompts").click()
        await page.wait_for_url("**mode=diff**")
        await page.fill("#text", "The nurse said he was late")
        await page.fill("#other", "The nurse said that she was late")
        await page.get_by_role("button", name="Compare").click()
        diff = page.locator("[data-diff]")
        await expect(diff).to_be_visible()
        await expect(diff.locator("li.same").first).to_be_visible()
        await expect(diff.locator("[data-said]")).to_contain_text("the largest difference first")
        assert await diff.locator(".rank").count() > 3
        await page.fill("#other", "")
        await page.get_by_role("button", name="Compare").click()
        await expect(page.locator("#result [role=alert]")).to_contain_text("enter both")
        problems.forgive("422")

        await page.get_by_role("link", name="Conversation").click()
        await page.wait_for_url("**mode=chat**")  # and its scripts
        await page.get_by_label("Turn 2", exact=True).fill("Who was Marie Curie?")
        await page.get_by_role("button", name="Add a turn").click()
        await page.keyboard.type("A physicist.")
        await page.get_by_label("other").check()
        await page.get_by_label("Order of features").select_option("activation")
        await page.get_by_role("button", name="Probe", exact=True).click()
        turns = page.locator("[data-tokens] .turn")
        await expect(turns).to_have_count(2)
        await expect(turns.nth(0)).to_contain_text("Who was Marie Curie?")
        await expect(turns.nth(1).locator(".turn-role")).to_have_text("assistant")
        await expect(page.locator("[data-added-tokens]")).to_contain_text("added to what you wrote")
        await expect(page.locator(".probe-layer")).to_have_count(2)
        await page.locator(".ranks [data-pin]").nth(1).click()
        await expect(page.locator(".probe-key")).to_have_count(2)
        await page.locator("[data-tokens] .t:not([data-added])").first.click()
        await expect(page.locator("[data-token-panel]")).to_be_visible()

        await page.get_by_text("Save this probe").click()
        await page.get_by_label("Title").fill("A physicist")
        await page.get_by_role("button", name="Save", exact=True).click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("A physicist")
        await expect(page.locator(".probe-layer")).to_have_count(2)
        assert await page.get_by_label("Turn 2", exact=True).input_value() == "Who was Marie Curie?"
        shared = page.url
        await page.get_by_role("link", name="Delete it").click()
        await page.get_by_role("button", name="Delete the probe").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Probe")
        gone = await page.goto(shared)
        assert gone is not None
        assert gone.status == 404
        problems.forgive("404")


async def add_sae_beside(engine: AsyncEngine, dictionary: Dictionary, model_id: int) -> None:
    """Add the SAE `other` at the layer before, with weights and no index."""
    sae = random_sae(dictionary.model.d_model, d_sae=32, k=4, seed=1)
    config = {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post"}
    save_sae(sae, dictionary.settings.artifacts / "saes" / "other", config)
    row = SaeRow(
        slug="other",
        model_id=model_id,
        hook="resid_post.1",
        architecture="topk",
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        k=sae.k,
        artifact="saes/other",
        weights_sha256="1" * 64,
        config={},
        metrics={},
        created_by="tester",
    )
    async with transaction(create_sessionmaker(engine)) as session:
        await register_sae(session, row)
