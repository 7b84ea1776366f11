"""Every page of the site in each of its states, and how a test gets there.

Tests of accessibility, of loading and of browsers without JavaScript all walk `PAGES`: a new page is one more line, and
all three hold it to the same rules.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from playwright.async_api import Page, Response, expect

DRAWN = """() => [...document.querySelectorAll("[data-chart]")]
  .filter((box) => { const { top, bottom } = box.getBoundingClientRect(); return top < innerHeight && bottom > 0; })
  .every((box) => box.querySelector(".main-svg"))"""
"""True once every chart within the window is drawn; the others wait until they are scrolled near."""
MOVING = """() => [...document.querySelectorAll("*")].filter((element) => {
  const { transitionDuration, animationName, scrollBehavior } = getComputedStyle(element);
  const changes = transitionDuration.split(", ").some((time) => parseFloat(time) > 0);
  return changes || animationName !== "none" || scrollBehavior === "smooth";
}).map((element) => element.outerHTML.slice(0, 80))"""
PROMPT = "It was the best of times,\nit was the worst of times."


@dataclass(frozen=True, slots=True)
class Site:
    """A running site, and what the `{names}` in addresses stand for."""

    url: str
    names: dict[str, str]


@dataclass(frozen=True, slots=True)
class Visit:
    """One page in one state."""

    name: str
    address: str
    """`{sae}` has an index, `{bare}` none, `{live}` answers probes; `{done}`, `{failed}`, `{running}` and
    `{queued}` are runs."""
    status: int = 200
    then: Callable[[Page], Awaitable[None]] | None = None
    """Steps on the page, for a state that has no address of its own."""
    scripts: bool = False
    """True for a state that needs JavaScript."""
    ready: str = ""
    """Selector of the element that a script adds last."""


async def _probe(page: Page) -> None:
    await page.fill("#text", PROMPT)
    await page.get_by_role("button", name="Probe", exact=True).click()
    await expect(page.locator("[data-probe]")).to_be_visible()


async def _compare_prompts(page: Page) -> None:
    await page.fill("#text", PROMPT)
    await page.fill("#other", PROMPT.replace("best", "end"))
    await page.get_by_role("button", name="Compare", exact=True).click()
    await expect(page.locator("[data-diff]")).to_be_visible()


async def _probe_texts(page: Page) -> None:
    await page.fill("#text", f"{PROMPT}\nThe nurse said she")
    await page.get_by_role("button", name="Probe", exact=True).click()
    await expect(page.locator(".texts-features")).to_be_visible()


async def _look_at_a_token(page: Page) -> None:
    await _probe(page)
    await page.locator("[data-tokens] .t.top").click()
    await expect(page.locator("[data-token-panel]")).to_be_visible()


async def _probe_nothing(page: Page) -> None:
    await page.get_by_role("button", name="Probe", exact=True).click()
    await expect(page.locator("#result [role=alert]")).to_be_visible()


async def _steer(page: Page) -> None:
    await page.fill("#text", PROMPT)
    await page.get_by_role("button", name="Steer", exact=True).click()
    await expect(page.locator(".steer-result")).to_be_visible()


async def _steer_nothing(page: Page) -> None:
    await page.get_by_role("button", name="Steer", exact=True).click()
    await expect(page.locator("#result [role=alert]")).to_be_visible()


async def _steer_several(page: Page) -> None:
    await _open_everything(page)
    await page.get_by_role("button", name="Add a feature").click()
    await expect(page.locator("[name=feature]")).to_have_count(2)


async def _steer_beside_a_control(page: Page) -> None:
    await _steer(page)
    await page.get_by_role("button", name="A random direction", exact=True).click()
    await expect(page.locator(".steer-said", has_text="Control:")).to_be_visible()


async def _sweep(page: Page) -> None:
    await page.fill("#text", PROMPT)
    await page.get_by_role("button", name="Sweep strengths").click()
    await expect(page.locator(".sweep-result")).to_be_visible()


async def _attribute(page: Page) -> None:
    await page.fill("#text", PROMPT)
    await page.get_by_role("button", name="Attribute", exact=True).click()
    await expect(page.locator("[data-attribution]")).to_be_visible()


async def _attribute_layers(page: Page) -> None:
    await page.fill("#text", PROMPT)
    await page.locator("[name=saes]").first.check(force=True)
    await page.get_by_role("button", name="Attribute", exact=True).click()
    await expect(page.locator("svg.graph")).to_be_visible()
    await _open_everything(page)


async def _attribute_nothing(page: Page) -> None:
    await page.get_by_role("button", name="Attribute", exact=True).click()
    await expect(page.locator("#result [role=alert]")).to_be_visible()


async def _open_example(page: Page) -> None:
    await page.locator(".example-line").first.click()
    await expect(page.locator(".example-open .strip")).to_be_visible()


async def _open_everything(page: Page) -> None:
    """Open all that opens, and wait for what is fetched only then: it replaces what stood there before."""
    for summary in await page.locator("summary:visible").all():
        await summary.click()
    if not await page.locator("html.js").count():
        return  # nothing is fetched without JavaScript, and no frame or timer ever calls back
    await page.evaluate("() => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)))")
    await expect(page.locator(".htmx-request, .htmx-swapping, .htmx-settling, .htmx-added")).to_have_count(0)


async def _compare_nothing(page: Page) -> None:
    await page.select_option("#a", "moods:happy")
    await page.select_option("#b", "moods:happy")
    await page.get_by_role("button", name="Compare", exact=True).click()
    await expect(page.locator("[role=alert] b")).to_be_visible()


async def _queue_nothing(page: Page) -> None:
    await page.get_by_role("button", name="Queue the run").click()
    await expect(page.locator("[aria-invalid]").first).to_be_visible()


async def _open_keys(page: Page) -> None:
    await page.locator("[data-open-keys]").click()
    await expect(page.locator("#keys")).to_be_visible()


PAGES = [
    Visit("home", "/"),
    Visit("home, searched", "/?q=tiny"),
    Visit("home, none found", "/?q=nothing%20like%20it"),
    Visit("overview", "/saes/{sae}"),
    Visit("overview, opened", "/saes/{sae}", then=_open_everything),
    Visit("overview without an index", "/saes/{bare}"),
    Visit("features", "/saes/{sae}/features"),
    Visit("features, filtered", "/saes/{sae}/features?q=violin&max_density=0.5&health=single_token"),
    Visit("features, by effect", "/saes/{sae}/features?sort=effect&effect=measured"),
    Visit("features, none", "/saes/{sae}/features?q=zzz&author=nobody"),
    Visit("features, refused", "/saes/{sae}/features?min_density=0.1&max_density=0.01", status=422),
    Visit("features without an index", "/saes/{bare}/features"),
    Visit("feature", "/saes/{sae}/features/1"),
    Visit("feature, opened", "/saes/{sae}/features/1", then=_open_everything),
    Visit("feature, an example open", "/saes/{sae}/features/1", then=_open_example, scripts=True),
    Visit("feature, no effect beyond chance", "/saes/{sae}/features/2", then=_open_everything),
    Visit("feature, too rare for an effect", "/saes/{sae}/features/3"),
    Visit("feature, not active on held-out text", "/saes/{sae}/features/4"),
    Visit("feature, label form", "/saes/{sae}/features/2?label=1"),
    Visit("feature, dead", "/saes/{sae}/features/{dead}"),
    Visit("example", "/saes/{sae}/features/1/examples/{sequence}"),
    Visit("feature, own sentences", "/saes/{live}/features/1?text=It%20was%20the%20best%20of%20times."),
    Visit("feature, in a frame", "/saes/{sae}/features/1?embed=1"),
    Visit("drawn, refused", "/saes/{sae}/features/1/drawn?from=2&to=1", status=422),
    Visit("features, cards", "/saes/{sae}/features?view=cards"),
    Visit("map", "/saes/{sae}/map", ready="[data-map][data-ready]"),
    Visit("map, by rate", "/saes/{sae}/map?axes=rate&colour=topic", ready="[data-map][data-ready]"),
    Visit("map, by effect", "/saes/{sae}/map?colour=effect", ready="[data-map][data-ready]"),
    Visit("map without an index", "/saes/{bare}/map"),
    Visit("by example", "/saes/{live}/features/by-example"),
    Visit("by example, result", "/saes/{live}/features/by-example?run=1&text=It%20was%20the%20best%20of%20times."),
    Visit("compare, nothing chosen", "/compare"),
    Visit("compare, all SAEs of a model, sorted", "/compare?sort=l0&order=desc", then=_open_everything),
    Visit("compare, no such model", "/compare?model=nothing", status=404),
    Visit("compare", "/compare?a={narrow}&b={sae}"),
    Visit("compare, those that are split", "/compare?a={narrow}&b={sae}&show=split-a"),
    Visit("compare, a feature", "/compare?a={narrow}&b={sae}&feature=1"),
    Visit("compare, with itself", "/compare?a={sae}&b={sae}", status=422),
    Visit("compare, not compared yet", "/compare?a={spare}&b={sae}", status=404),
    Visit("compare, without an index", "/compare?a={spare}&b={bare}", status=404),
    Visit("compare texts", "/saes/{sae}/compare-texts"),
    Visit("compare texts, not chosen", "/saes/{sae}/compare-texts", then=_compare_nothing),
    Visit("texts compared", "/saes/{sae}/compare-texts/{texts}?open=1", then=_open_everything),
    Visit("texts compared, none left", "/saes/{sae}/compare-texts/{texts}?direction=b&min_rate=0.9"),
    Visit("offensive texts compared", "/saes/{sae}/compare-texts/{rude}?open=1"),
    Visit("feature, on texts", "/saes/{sae}/features/1/texts"),
    Visit("feature, on no texts", "/saes/{bare}/features/1/texts"),
    Visit("models and corpora", "/models"),
    Visit("activity", "/activity"),
    Visit("webhooks", "/webhooks"),
    Visit("dictionary", "/saes/{sae}/dictionary"),
    Visit("files of labels", "/saes/{sae}/labels"),
    Visit("lists", "/lists"),
    Visit("account, before there are any", "/account"),
    Visit("list", "/lists/{list}"),
    Visit("list, opened", "/lists/{list}", then=_open_everything),
    Visit("list, to be deleted", "/lists/{list}/delete"),
    Visit("text sets", "/textsets"),
    Visit("text set, new", "/textsets/new", then=_open_everything),
    Visit("text set", "/textsets/{textset}"),
    Visit("text set that may offend", "/textsets/{pairs}"),
    Visit("text set of pairs", "/textsets/{pairs}?show=true", then=_open_everything),
    Visit("text set, to be deleted", "/textsets/{textset}/delete"),
    Visit("edits", "/edits"),
    Visit("edit", "/edits/{edit}"),
    Visit("edit, opened", "/edits/{edit}", then=_open_everything),
    Visit("edit, to be deleted", "/edits/{edit}/delete"),
    Visit("new run, measure an edit", "/runs/new/measure-edit?edit={edit}"),
    Visit("monitors", "/monitors"),
    Visit("monitor", "/monitors/{monitor}", then=_open_everything),
    Visit("monitor, new", "/monitors/new?recipe=toxic-text", then=_open_everything),
    Visit("monitor, candidates", "/monitors/{monitor}/candidates", then=_open_everything),
    Visit("monitor, its webhooks", "/webhooks?monitor={monitor}"),
    Visit("activity of a monitor", "/activity?monitor={monitor}"),
    Visit("monitor, to be deleted", "/monitors/{monitor}/delete"),
    Visit("audits", "/audits"),
    Visit("audit", "/audits/{audit}", then=_open_everything),
    Visit("audit, as a file", "/audits/{audit}/report.html", then=_open_everything),
    Visit("audit, new", "/audits/new?sae={sae}&on=winobias"),
    Visit("audit, to be deleted", "/audits/{audit}/delete"),
    Visit("probe", "/saes/{live}/probe?text=Some%20text"),
    Visit("probe, result", "/saes/{live}/probe", then=_probe),
    Visit("probe, conversation", "/saes/{live}/probe?mode=chat"),
    Visit("probe, two prompts", "/saes/{live}/probe?mode=diff", then=_compare_prompts),
    Visit("probe, many texts", "/saes/{live}/probe/texts", then=_probe_texts),
    Visit("probe, many texts, refused", "/saes/{live}/probe/texts", then=_probe_nothing),
    Visit("probe, a token", "/saes/{live}/probe", then=_look_at_a_token, scripts=True),
    Visit("probe, refused", "/saes/{live}/probe", then=_probe_nothing),
    Visit("steer", "/saes/{live}/steer?text=Some%20text&feature=1"),
    Visit("steer, result", "/saes/{live}/steer?feature=1", then=_steer),
    Visit("steer, several features", "/saes/{live}/steer?feature=1", then=_steer_several),
    Visit("steer, beside a control", "/saes/{live}/steer?feature=1&tokens=4", then=_steer_beside_a_control),
    Visit("steer, conversation", "/saes/{live}/steer?mode=chat&feature=1"),
    Visit("sweep", "/saes/{live}/steer?feature=1&tokens=6&strengths=1%2050", then=_sweep),
    Visit("steer, refused", "/saes/{live}/steer?feature=1", then=_steer_nothing),
    Visit("attribute", "/saes/{live}/attribute?text=Some%20text"),
    Visit("attribute, result", "/saes/{live}/attribute", then=_attribute),
    Visit("attribute, two layers", "/saes/{live}/attribute", then=_attribute_layers),
    Visit("attribute, refused", "/saes/{live}/attribute", then=_attribute_nothing),
    Visit("blind tests", "/labelsets/{set}/tests"),
    Visit("blind test", "/tests/{test}"),
    Visit("blind test, marked", "/tests/{intruder}"),
    Visit("blind test, result", "/tests/{answered}"),
    Visit("label", "/label"),
    Visit("label set", "/labelsets/{labelset}"),
    Visit("label set, new", "/labelsets/new?sae={sae}"),
    Visit("label set, to be changed", "/labelsets/{labelset}/edit"),
    Visit("label flow", "/labelsets/{labelset}/label?feature=0", then=_open_everything),
    Visit("label flow, to begin", "/labelsets/{unlabelled}/label"),
    Visit("agreement", "/labelsets/{labelset}/agreement", then=_open_everything),
    Visit("agreement, nothing yet", "/labelsets/{unlabelled}/agreement"),
    Visit("labels that differ", "/labelsets/{labelset}/adjudicate"),
    Visit("labels that differ, none", "/labelsets/{unlabelled}/adjudicate"),
    Visit("labels side by side", "/labelsets/{labelset}/adjudicate/0", then=_open_everything),
    Visit("label, no such SAE", "/label?sae=nothing"),
    Visit("label, a long name that no SAE has", f"/label?sae={'W' * 80}"),
    Visit("runs", "/runs"),
    Visit("run, done", "/runs/{done}"),
    Visit("run, failed", "/runs/{failed}"),
    Visit("run, running", "/runs/{running}"),
    Visit("run, queued", "/runs/{queued}"),
    Visit("run, to be cancelled", "/runs/{running}/cancel"),
    Visit("run, to be retried", "/runs/{failed}/retry"),
    Visit("runs, filtered", "/runs?state=failed&kind=train"),
    Visit("runs, filtered, none", "/runs?state=cancelled&kind=import"),
    Visit("new run", "/runs/new"),
    Visit("new run, train", "/runs/new/train"),
    Visit("new run, train, opened", "/runs/new/train", then=_open_everything),
    Visit("new run, index", "/runs/new/index?sae={bare}"),
    Visit("new run, evaluate", "/runs/new/evaluate"),
    Visit("new run, compare", "/runs/new/compare?a={sae}&b={narrow}"),
    Visit("new run, import", "/runs/new/import", then=_open_everything),
    Visit("new run, export", "/runs/new/export?sae=nothing&format=site&destination=/nowhere/site"),
    Visit("new run, refused", "/runs/new/import", then=_queue_nothing),
    Visit("API", "/api/docs", ready='rapi-doc >> text="/api/v1/saes"'),
    Visit("model, in use", "/models/tiny/delete", status=409),
    Visit("index, to be deleted", "/saes/{spare}/index/delete"),
    Visit("SAE, to be deleted", "/saes/{spare}/delete"),  # last: a test sends every form
    Visit("not found", "/saes/nothing", status=404),
    Visit("not understood", "/saes/{sae}/features?sort=nothing", status=422),
    Visit("keys", "/", then=_open_keys, scripts=True),
]

EMPTY = [
    Visit("home, before the first SAE", "/"),
    Visit("label, before the first SAE", "/label"),
    Visit("runs, before the first", "/runs"),
    Visit("lists, before the first", "/lists"),
    Visit("text sets, before the first", "/textsets"),
    Visit("edits, before the first", "/edits"),
    Visit("audits, before the first", "/audits"),
    Visit("monitors, before the first", "/monitors"),
    Visit("compare, before the first SAE", "/compare"),
]
"""Pages of a site without any content."""


async def visit(page: Page, site: Site, to: Visit) -> Response:
    """Go there and do what the state takes."""
    response = await page.goto(site.url + to.address.format_map(site.names))
    assert response is not None
    assert response.status == to.status, f"{to.name}: {response.status}"
    if to.ready and await page.locator("html.js").count():
        await expect(page.locator(to.ready).first).to_be_visible()
    if to.then:
        await to.then(page)
    return response
