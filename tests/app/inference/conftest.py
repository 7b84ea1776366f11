import pytest

from tests.app.inference.dictionaries import Dictionary, make_dictionary


@pytest.fixture(scope="session")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> Dictionary:
    return make_dictionary(tmp_path_factory.mktemp("inference"))
