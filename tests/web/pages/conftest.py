import pytest

from tests.factories import Synthetic

HTMX = {"HX-Request": "true"}


@pytest.fixture
def base(made: Synthetic) -> str:
    return f"/saes/{made.sae.slug}"
