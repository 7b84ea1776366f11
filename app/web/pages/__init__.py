"""Pages for people, one module per noun; every route has its full path."""

from fastapi import APIRouter

from app.web.pages import (
    adjudicate,
    agreement,
    attribute,
    blind_tests,
    by_example,
    compare,
    deletions,
    edits,
    feature_list,
    features,
    home,
    label_flow,
    label_sets,
    labels,
    lists,
    models,
    new_run,
    probe,
    probe_texts,
    runs,
    saes,
    steer,
)

router = APIRouter(include_in_schema=False)
for module in (
    home,
    saes,
    feature_list,
    by_example,
    features,
    probe,
    probe_texts,
    steer,
    attribute,
    labels,
    label_sets,
    label_flow,
    agreement,
    adjudicate,
    blind_tests,
    lists,
    edits,
    new_run,
    runs,
    compare,
    models,
    deletions,
):
    router.include_router(module.router)
