"""The REST API under /api/v1, described at /api/docs."""

from app.web.api import by_example, compare, docs, features, labels, lists, maps, probe, runs, saes

DESCRIPTION = """
Everything the pages show, as JSON. Words are the field's: a *feature* is one of an SAE's latents, its *activation* on
a token is what the encoder gives, its *density* the share of counted tokens on which it is active.

Lists come in pages: pass a page's `next_cursor` as `cursor` to get the next one; `null` means that was the last.
Errors are `application/problem+json` with one line in `detail` that says what to do.
"""
TAGS = [
    {"name": "SAEs", "description": "Which SAEs there are, and what each was trained and indexed on."},
    {"name": "Features", "description": "Statistics and examples of features, from the published index."},
    {"name": "Comparisons", "description": "Which features two SAEs of one model share, and which one splits."},
    {
        "name": "Probe",
        "description": "Run a text through the model and the SAE, live. Texts are neither kept nor logged.",
    },
    {"name": "Labels", "description": "What people say that features mean, with history."},
    {"name": "Lists", "description": "Lists of features that people keep: named, ordered, with notes."},
    {"name": "Runs", "description": "Long work: training, indexing and so on."},
]
# Each router carries its whole prefix, which `app.web.requests.route_template` relies on.
ROUTERS = tuple(noun.router for noun in (saes, maps, by_example, features, compare, probe, labels, lists, runs, docs))
