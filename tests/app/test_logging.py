import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from sqlalchemy.exc import OperationalError

from app.errors import NotFound
from app.logging import configure, describe
from tests.web.site import production_logging


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with production_logging():
        yield


def caught(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause  # noqa: TRY301 - its stack is what is tested
    except Exception as raised:
        return raised


def test_each_event_is_one_json_line(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", as_json=True)
    structlog.get_logger("web").info("request", route="/saes/{sae}", status=200)
    logging.getLogger("some.library").warning("watch %s", "out")
    logging.getLogger("some.library").debug("too quiet to be seen")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["event"], line["level"], line["logger"]) for line in lines] == [
        ("request", "info", "web"),
        ("watch out", "warning", "some.library"),
    ]
    assert lines[0]["route"] == "/saes/{sae}"


def test_exceptions_are_logged_with_traceback_but_without_message(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", as_json=True)
    structlog.get_logger("web").error("oops", exc_info=caught(KeyError("what somebody typed")))
    error = caught(ValueError("what somebody typed"))
    logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=error)
    output = capfd.readouterr().err
    assert "what somebody typed" not in output
    first, second = map(json.loads, output.splitlines())
    assert first["error"] == "KeyError"
    assert first["stack"][-1].startswith("tests/app/test_logging.py:")
    assert second["error"] == "ValueError"


def test_messages_of_system_errors_are_logged() -> None:
    assert describe(caught(OSError("disk full")))["message"] == "disk full"
    wrapped = caught(RuntimeError("what somebody typed"), cause=caught(FileNotFoundError("no such file")))
    assert describe(wrapped)["error"] == "RuntimeError from FileNotFoundError"
    assert describe(wrapped)["message"] == "no such file"
    assert describe(caught(NotFound("There is no run 7.")))["message"] == "There is no run 7."
    assert "message" not in describe(caught(RuntimeError("what somebody typed")))
    statement = OperationalError("SELECT 1", {}, Exception("server closed the connection"))
    assert "server closed" in describe(caught(statement))["message"]


def test_requests_are_not_logged_twice(capfd: pytest.CaptureFixture[str]) -> None:
    configure("info", as_json=True)
    logging.getLogger("uvicorn.access").info('127.0.0.1 - "GET /saes/x/probe?text=secret HTTP/1.1" 200')
    logging.getLogger("httpx").info("HTTP Request: POST http://127.0.0.1/probe")
    assert capfd.readouterr().err == ""


def test_an_exception_that_is_a_cause_of_itself_is_described_once() -> None:
    first, second = ValueError("a secret"), KeyError("another")
    first.__cause__, second.__cause__ = second, first
    assert describe(first)["error"] == "ValueError from KeyError"
