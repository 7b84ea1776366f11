"""Pages for people, one module a noun; every route carries its whole path."""

from fastapi import APIRouter

router = APIRouter(include_in_schema=False)
