"""Ports that are taken, and addresses that are not ours."""

import pytest

from app.errors import UserError
from app.supervision.sockets import listen, url_of


def test_a_taken_port_is_named_and_the_next_is_tried() -> None:
    taken: list[int] = []
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with listen("127.0.0.1", port, on_taken=taken.append) as second:
            assert taken[0] == port
            assert second.getsockname()[1] == taken[-1] + 1
            assert url_of(second) == f"http://127.0.0.1:{taken[-1] + 1}"


def test_an_address_of_another_machine_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"Cannot listen on 192\.0\.2\.1, port 8000: .*--host"):
        listen("192.0.2.1", 8000)


def test_a_wildcard_address_is_shown_as_a_local_url() -> None:
    with listen("0.0.0.0", 0) as listening:
        assert url_of(listening).startswith("http://127.0.0.1:")


@pytest.mark.parametrize("host", ["nosuch.invalid", 70 * "x"])
def test_an_address_that_there_is_not_is_refused_in_one_line(host: str) -> None:
    with pytest.raises(UserError, match="--host"):
        listen(host, 0)
