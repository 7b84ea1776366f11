"""Pages for people, one module a noun; every route carries its whole path."""

from fastapi import APIRouter

from app.web.pages import compare, feature_list, features, home, labels, probe, runs, saes

router = APIRouter(include_in_schema=False)
for module in (home, saes, feature_list, features, probe, labels, runs, compare):
    router.include_router(module.router)
