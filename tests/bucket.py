"""A server that speaks S3, on this machine, and a bucket in it; keys and address are in the environment."""

import uuid
from collections.abc import Iterator

import fsspec
import pytest


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of the server."""
    from moto.server import ThreadedMotoServer  # takes a second, and few tests need it

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def connect(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Say in the environment, also to child processes, where S3 is and with which keys."""
    given = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1"}
    for name, value in given.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of a folder of a new bucket."""
    connect(monkeypatch, s3_server)
    name = f"seesae-{uuid.uuid4().hex[:8]}"
    fsspec.url_to_fs(f"s3://{name}")[0].mkdir(name)
    return f"s3://{name}/team/sae"
