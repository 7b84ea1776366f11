"""The REST API under /api/v1, described at /api/docs."""

from app.web.api import (
    agreement,
    attribute,
    audits,
    blind_tests,
    by_example,
    comments,
    compare,
    completions,
    deletions,
    dictionary,
    docs,
    edits,
    features,
    generate,
    label_sets,
    labels,
    leaderboard,
    lists,
    maps,
    models,
    monitors,
    probe,
    runs,
    saes,
    suggestions,
    sweep,
    text_comparisons,
    text_sets,
    webhooks,
)

DESCRIPTION = """
Everything that the pages show, as JSON. A *feature* is one of an SAE's latents, its *activation* on a token is the
encoder's output, and its *density* is the share of counted tokens on which it is active.

Lists come in pages: pass a page's `next_cursor` as `cursor` to get the next one; `null` means that there is none.
Errors are `application/problem+json` with one line in `detail` that says what to do.
"""
TAGS = [
    {"name": "SAEs", "description": "The SAEs, with the data that each was trained and indexed on."},
    {"name": "Features", "description": "Statistics and examples of features, from the published index."},
    {
        "name": "Comparisons",
        "description": "All SAEs of a model side by side; features that two share, and features that one splits.",
    },
    {"name": "Text sets", "description": "Named texts with labels, groups or pairs."},
    {"name": "Texts", "description": "What distinguishes two sides of texts, and features on groups of texts."},
    {
        "name": "Probe",
        "description": "Run a text through the model and the SAE, live. Texts are neither kept nor logged.",
    },
    {
        "name": "Attribute",
        "description": "Trace an output token of a text to the features that cause it, live.",
    },
    {
        "name": "Intervene",
        "description": "Change features inside the model, and compare what it writes with and without.",
    },
    {
        "name": "Edits",
        "description": "Interventions kept under a name, with what they change and what else they break.",
    },
    {"name": "Audits", "description": "How a model treats the two sides of pairs, and what changing features does."},
    {
        "name": "Endpoint",
        "description": "OpenAI's chat completions and completions, for its clients. Texts are neither kept nor logged.",
    },
    {"name": "Labels", "description": "People's explanations of features, with history."},
    {
        "name": "Label sets",
        "description": "Guidelines and rules by which people label, and the next feature.",
    },
    {"name": "Monitors", "description": "Features, directions and probes that are watched, with a threshold."},
    {"name": "Webhooks", "description": "Addresses that are told of labels, decisions and comments. For admins."},
    {"name": "Suggestions", "description": "What machines suggest as labels, and how well it predicts the features."},
    {"name": "Lists", "description": "People's lists of features: named, ordered, with notes."},
    {"name": "Runs", "description": "Long work, such as training and indexing."},
    {"name": "Models and corpora", "description": "What SAEs are trained and indexed on, and which SAEs use it."},
    {"name": "Deleting", "description": "Delete what is not wanted any more, with everything that belongs to it."},
]
# Each router carries its whole prefix, which `app.web.requests.route_template` relies on.
ROUTERS = tuple(
    module.router
    for module in (
        saes,
        maps,
        by_example,
        features,
        compare,
        leaderboard,
        text_sets,
        text_comparisons,
        probe,
        generate,
        sweep,
        attribute,
        edits,
        audits,
        monitors,
        completions,
        labels,
        comments,
        webhooks,
        dictionary,
        label_sets,
        agreement,
        suggestions,
        blind_tests,
        lists,
        runs,
        models,
        deletions,
        docs,
    )
)
