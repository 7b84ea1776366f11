"""Names of accounts: what tells people apart is kept, what stands for something else is refused."""

import pytest

from app.errors import Unprocessable
from app.services.account_names import account_name, possible_name


@pytest.mark.parametrize("name", ["ada", "Ada Lovelace", "O\u2019Neill-Smith_2", "Žofie", "山田", "ada@home"])
def test_a_plain_name_stays_as_it_is(name: str) -> None:
    assert account_name(name) == possible_name(name) == name


@pytest.mark.parametrize(
    ("name", "possible"),
    [
        ("ada (no account)", "ada"),
        ("ada (No Account) (no account)", "ada"),
        ("ada, grace", "ada grace"),
        ("@@ada", "ada"),
        ("a\u202eda", "ada"),
        ("a\u200dda", "ada"),
        ("a\x07da", "ada"),
        ("\u2066,@", ""),
    ],
)
def test_a_name_that_stands_for_something_else_is_refused(name: str, possible: str) -> None:
    with pytest.raises(Unprocessable, match=r"[Tt]he name of"):
        account_name(name)
    assert possible_name(name) == possible
