"""Two people label twenty features of the demo in two browsers, decide where they differ, and test a label blind.

`docs/screenshots.py` runs it, and so takes the pictures of docs/labelling.md. It works on copies
of the demo's database, because a site where somebody has an account asks all to sign in. At the end it exports what
they wrote, imports it into a copy without labels, and compares every number of the two.

The words come from each feature's strongest tokens, and the tester says yes where a text has one of them: a stand-in
for people, which shows the path and says nothing about the SAE.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from playwright.sync_api import Browser, Page

from app.settings import get_settings

SEESAE = Path(sys.executable).with_name("seesae")
FEATURES = 20
PASSWORD = "correct horse battery"  # noqa: S105 - of accounts in a copy that is deleted
GUIDELINE = """\
Say **what makes it fire**, in a few words: “words for rivers”, not “rivers, streams, the”.

- Look at all bands, not at the strongest examples alone.
- If you see no pattern, say that you cannot tell.
"""

Environment = dict[str, str]
Serving = Callable[[Environment], AbstractContextManager[str]]
Take = Callable[[Page, str], None]


@contextmanager
def copied_home() -> Iterator[Environment]:
    """Yield an environment with a copy of the demo's database, and its own artifacts, which are only read."""
    artifacts = str(get_settings().artifacts)
    with TemporaryDirectory() as folder:
        backup = str(Path(folder) / "demo.dump")
        environment = {**os.environ, "SEESAE_HOME": str(Path(folder) / "home"), "SEESAE_ARTIFACTS": artifacts}
        subprocess.run([SEESAE, "db", "backup", backup], check=True)
        subprocess.run([SEESAE, "db", "restore", backup, "--yes"], env=environment, check=True)
        yield environment


def add_person(name: str, role: str, environment: Environment) -> None:
    """Make an account."""
    command = [SEESAE, "user", "add", name, "--role", role, "--password"]
    subprocess.run(command, input=f"{PASSWORD}\n", text=True, env=environment, check=True, stdout=subprocess.DEVNULL)


def sign_in(browser: Browser, url: str, name: str) -> Page:
    """Return the page of a browser of its own, in which a person is signed in."""
    page = browser.new_context(viewport={"width": 1200, "height": 760}, color_scheme="light").new_page()
    page.goto(f"{url}/sign-in")
    page.fill("#name", name)
    page.fill("#password", PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda address: "sign-in" not in address)
    return page


def make_set(page: Page, url: str, sae: str) -> str:
    """Make a blind label set of a sample, and return its address."""
    page.goto(f"{url}/labelsets/new?sae={sae}")
    page.fill("#name", "First pass")
    page.fill("#guideline", GUIDELINE)
    page.fill("#categories", "topic, token, syntax")
    page.fill("#needed", "2")
    page.check("[name=blind]")
    page.fill("#sample", str(FEATURES))
    page.get_by_role("button", name="Make the set").click()
    page.wait_for_url(re.compile(r"/labelsets/\d+$"))
    return page.url


def label_all(
    page: Page,
    address: str,
    words_of: Callable[[int], str],
    category: Callable[[int], int],
    take: Take = lambda _page, _name: None,
) -> None:
    """Label every feature of a set by keys."""
    page.goto(f"{address}/label")
    page.get_by_role("button", name="Begin").click()
    for done in range(FEATURES):
        feature = page.locator("[data-flow-form] [name=feature]")
        feature.wait_for(state="attached")
        number = int(feature.input_value())
        page.keyboard.press(str(category(number)))
        page.keyboard.press("e")
        page.keyboard.type(words_of(number))
        if not done:
            take(page, "labelling-flow")
        page.keyboard.press("Control+Enter")
        page.locator(".flow-progress", has_text=f"{done + 1} labelled").wait_for()


def decide_all(page: Page, address: str, take: Take) -> int:
    """Take the first label wherever two differ, and return how often."""
    page.goto(f"{address}/adjudicate")
    decided = 0
    while (open_ones := page.locator(".difference")).count():
        open_ones.first.click()
        page.wait_for_url("**/adjudicate/*")
        if not decided:
            take(page, "labelling-adjudicate")
        page.keyboard.press("1")
        page.locator("#explanation:focus").wait_for()
        page.get_by_role("button", name="Decide").click()
        page.wait_for_load_state()
        decided += 1
        page.goto(f"{address}/adjudicate")
    return decided


def test_a_label(page: Page, url: str, sae: str, feature: int, take: Take) -> None:
    """Make a detection test of the newest label of somebody else, and answer it by the words of the label."""
    page.goto(f"{url}/saes/{sae}/features/{feature}")
    of_another = page.locator(".labels > li", has=page.locator("p.faint", has_text=re.compile("^ada,")))
    of_another.get_by_role("button", name="Detection").click()
    page.wait_for_url("**/tests/*")
    take(page, "labelling-test")
    words = re.findall(r"‘(.+?)’", page.locator("q").inner_text())
    for number in range(page.locator("[data-item]").count()):
        item = page.locator(f"[data-item].current:nth-of-type({number + 1})")
        text = item.inner_text().lower()
        page.keyboard.press("y" if any(word.lower() in text for word in words) else "n")
    page.get_by_role("button", name="Submit all answers").click()
    page.locator(".blind-result").first.wait_for()
    take(page, "labelling-result")


def words_of(url: str, sae: str, cookies: dict[str, str]) -> Callable[[int], str]:
    """Return a function that names a feature after its two strongest tokens."""

    def words(feature: int) -> str:
        answer = httpx.get(f"{url}/api/v1/saes/{sae}/features/{feature}", cookies=cookies).raise_for_status().json()
        tokens = [str(token["text"]).strip() for token in answer["top_tokens"]]
        chosen = list(dict.fromkeys(token for token in tokens if token.isalnum()))[:2] or ["punctuation"]
        return "Texts with " + " or ".join(f"‘{token}’" for token in chosen)

    return words


def others_category(feature: int) -> int:
    """Return the key of the category that another person chooses: of every fifth feature another one."""
    return 1 + (feature if feature % 5 else feature + 1) % 3


def others_words(words: Callable[[int], str]) -> Callable[[int], str]:
    """Return what another person says: the same of every second feature, and of the others less."""
    return lambda feature: words(feature) if feature % 2 else words(feature).partition(" or ")[0]


def numbers(page: Page, url: str, sae: str, set_id: int) -> dict[str, Any]:
    """Return what the site says of a label set: agreement, progress and decisions, and the SAE's dictionary."""
    api = f"{url}/api/v1"
    addresses = {
        "agreement": f"{api}/labelsets/{set_id}/agreement",
        "decisions": f"{api}/labelsets/{set_id}/decisions",
        "collisions": f"{api}/labelsets/{set_id}/collisions",
        "dictionary": f"{api}/saes/{sae}/dictionary",
    }
    return {name: page.request.get(address).json() for name, address in addresses.items()}


def label_together(browser: Browser, sae: str, serving: Serving, take: Take = lambda _page, _name: None) -> None:
    """Walk the whole path, and take pictures on the way.

    Raises:
        SystemExit: a number of the imported labels is not what it is where they were written.
    """
    with copied_home() as environment, TemporaryDirectory() as folder:
        exported = Path(folder) / "labels"
        add_person("ada", "reviewer", environment)
        add_person("grace", "labeller", environment)
        with serving(environment) as url:
            ada, grace = sign_in(browser, url, "ada"), sign_in(browser, url, "grace")
            address = make_set(ada, url, sae)
            take(ada, "labelling-set")
            cookies = {cookie["name"]: cookie["value"] for cookie in ada.context.cookies()}
            words = words_of(url, sae, cookies)
            label_all(ada, address, words, lambda feature: 1 + feature % 3, take)
            label_all(grace, address, others_words(words), others_category)
            ada.goto(f"{address}/agreement")
            take(ada, "labelling-agreement")
            print(f"{decide_all(ada, address, take)} of {FEATURES} features were decided by a reviewer")
            first = ada.request.get(f"{url}/api/v1/labelsets/{address.rpartition('/')[2]}/decisions").json()
            test_a_label(grace, url, sae, first["decisions"][0]["feature"], take)
            ada.goto(address)
            ada.locator(".close-set summary").click()
            ada.get_by_role(
                "button", name="Close it, and show all labels"
            ).click()  # now everybody sees the labels, and so do exports
            ada.wait_for_load_state()
            written = numbers(ada, url, sae, int(address.rpartition("/")[2]))
        subprocess.run([SEESAE, "export", sae, str(exported), "--format", "labels"], env=environment, check=True)
        with copied_home() as empty:
            subprocess.run([SEESAE, "import-labels", str(exported / "history.jsonl")], env=empty, check=True)
            with serving(empty) as url:
                page = browser.new_page()
                sets = page.request.get(f"{url}/api/v1/labelsets").json()["labelsets"]
                read = numbers(page, url, sae, next(each["id"] for each in sets if each["name"] == "First pass"))
    compare(written, read)


def compare(written: dict[str, Any], read: dict[str, Any]) -> None:
    """Hold the numbers of the instance that imported the labels to those of the one where they were written."""
    for name, found in written.items():
        if without_ids(found) != without_ids(read[name]):
            raise SystemExit(f"{name} differs after export and import:\n{found}\n{read[name]}")
    print("Agreement, decisions, collisions and dictionary are the same after export and import.")


def without_ids(value: Any) -> Any:
    """Return a value without the numbers that each database gives, and without links that hold them."""
    if isinstance(value, dict):
        return {key: without_ids(each) for key, each in value.items() if key not in ("id", "label", "labels", "run")}
    return [without_ids(each) for each in value] if isinstance(value, list) else value
