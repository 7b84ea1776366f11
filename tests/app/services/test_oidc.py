"""Signing in with a provider that runs on loopback: discovery, keys, the code flow with PKCE, the nonce."""

import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from sqlalchemy.ext.asyncio import AsyncEngine

from app.settings import Settings
from tests.people import sign_in
from tests.web.site import site

CLIENT, SECRET = "seesae", "a secret"


class Provider(ThreadingHTTPServer):
    """A provider that signs whoever `subject` is in; `forged` replaces claims of its tokens."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.key = RSAKey.generate_key(2048, {"kid": "1", "use": "sig", "alg": "RS256"})
        self.signing_key: Any = self.key
        self.issuer = f"http://127.0.0.1:{self.server_port}"
        self.subject = {"sub": "12", "preferred_username": "ada"}
        self.asked: dict[str, str] = {}
        self.forged: dict[str, Any] = {}
        self.header = {"alg": "RS256", "kid": "1"}

    def follow(self, address: str) -> dict[str, str]:
        """Do what a browser and a person do at the provider; return the query with which it sends them back."""
        self.asked = dict(parse_qsl(urlsplit(address).query))
        return {"code": "a code", "state": self.asked["state"]}

    def token(self) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 60, "nonce": self.asked["nonce"]}
        return jwt.encode(self.header, {**claims, **self.subject, **self.forged}, self.signing_key)


class Handler(BaseHTTPRequestHandler):
    """What the provider answers."""

    server: Provider

    def do_GET(self) -> None:
        issuer = self.server.issuer
        if self.path == "/.well-known/openid-configuration":
            names = {"authorization_endpoint": "/ask", "token_endpoint": "/token", "jwks_uri": "/keys"}
            self.send_json({"issuer": issuer, **{name: issuer + path for name, path in names.items()}})
        elif self.path == "/keys":
            self.send_json({"keys": [self.server.key.as_dict(private=False)]})
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        sent = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        challenge = base64.urlsafe_b64encode(sha256(sent["code_verifier"][0].encode()).digest()).rstrip(b"=").decode()
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        proven = (
            challenge == self.server.asked["code_challenge"] and self.server.asked["code_challenge_method"] == "S256"
        )
        if proven and self.headers["authorization"] == f"Basic {basic}" and sent["code"] == ["a code"]:
            self.send_json({"access_token": "x", "token_type": "Bearer", "id_token": self.server.token()})
        else:
            self.send_json({"error": "invalid_grant"}, 400)

    def send_json(self, body: object, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def settings(database_url: str, tmp_path: Path, provider: Provider) -> Settings:
    return Settings(
        database_url=database_url,
        home=tmp_path,
        oidc_issuer=provider.issuer,
        oidc_client_id=CLIENT,
        oidc_client_secret=SECRET,
        oidc_role="labeller",
    )


@pytest.fixture
async def client(settings: Settings, engine: AsyncEngine) -> AsyncIterator[httpx.AsyncClient]:
    await sign_in(engine, "ada")  # another one's account of the name that the provider says
    async with site(settings) as client:
        yield client


async def through(client: httpx.AsyncClient, provider: Provider, **changed: str) -> httpx.Response:
    left = await client.get("/sign-in/provider?next=/lists")
    assert left.status_code == 303, left.text
    return await client.get("/sign-in/provider/return", params={**provider.follow(left.headers["location"]), **changed})


async def test_a_first_sign_in_makes_an_account_that_the_next_one_finds(
    client: httpx.AsyncClient, provider: Provider
) -> None:
    assert "Sign in with" in (await client.get("/sign-in")).text
    for said in ("ada", "another name"):
        provider.subject = {"sub": "12", "preferred_username": said}
        done = await through(client, provider)
        assert (done.status_code, done.headers["location"]) == (303, "/lists")
        page = (await client.get("/account")).text
        assert "ada 2</bdi>" in page
        assert "Labeller." in page
        await client.post("/sign-out")
    assert provider.asked["redirect_uri"] == "http://localhost/sign-in/provider/return"
    provider.subject = {"sub": "13", "name": "kay"}
    await through(client, provider)
    assert "kay</bdi>" in (await client.get("/account")).text


async def test_what_was_not_asked_for_or_not_signed_by_the_provider_is_refused(
    client: httpx.AsyncClient, provider: Provider
) -> None:
    forgeries: list[dict[str, Any]] = [
        {"forged": {"nonce": "another"}},
        {"forged": {"aud": "another site"}},
        {"forged": {"iss": "https://evil.example"}},
        {"forged": {"exp": 1_000_000_000}},
        {"forged": {"sub": None}},
        {"signing_key": RSAKey.generate_key(2048, {"kid": "1"})},
    ]
    for forgery in forgeries:
        kept = {name: getattr(provider, name) for name in forgery}
        for name, value in forgery.items():
            setattr(provider, name, value)
        assert (await through(client, provider)).status_code == 400, forgery
        for name, value in kept.items():
            setattr(provider, name, value)
    assert (await through(client, provider, state="another")).status_code == 400
    assert (await through(client, provider, code="another")).status_code == 400
    left = await client.get("/sign-in/provider")
    client.cookies.clear()  # as in a browser into which somebody else's link was planted
    back = await client.get("/sign-in/provider/return", params=provider.follow(left.headers["location"]))
    assert back.status_code == 400
    assert "session" not in client.cookies


async def test_without_a_role_for_them_strangers_stay_outside(settings: Settings, provider: Provider) -> None:
    async with site(settings.model_copy(update={"oidc_role": None})) as client:
        refused = await through(client, provider)
        assert refused.status_code == 403
        assert "Ask an admin" in refused.text


async def test_a_provider_that_is_silent_is_named(settings: Settings) -> None:
    async with site(settings.model_copy(update={"oidc_issuer": "http://127.0.0.1:1"})) as client:
        answer = await client.get("/sign-in/provider")
        assert answer.status_code == 503
        assert "127.0.0.1, with which people sign in here, does not answer" in answer.text
