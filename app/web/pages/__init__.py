"""Pages for people, one module a noun; every route carries its whole path."""

from fastapi import APIRouter

from app.web.pages import feature_list, features, home, labels, lists, probe, runs, saes

router = APIRouter(include_in_schema=False)
for module in (home, saes, feature_list, features, probe, labels, lists, runs):
    router.include_router(module.router)
