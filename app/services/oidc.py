"""Signing in with an OpenID Connect provider: the code flow with PKCE (OpenID Connect Core 1.0, §3.1; RFC 7636).

What must come back unchanged stays with the browser, in a cookie: `state`, which ties the answer to this browser,
`nonce`, which ties the identity token to this attempt, and the verifier of the code.
"""

import base64
import json
from dataclasses import asdict, dataclass
from secrets import token_urlsafe
from typing import Any
from urllib.parse import urlsplit

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Forbidden, Unavailable, UserError
from app.queries import people
from app.queries.people import PersonView
from app.services.account_names import account_name, possible_name
from app.services.labels import MAX_NAME
from app.settings import Settings, is_loopback

_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures with a public key: a token that is signed with our own secret, or not at all, proves nothing."""
_LEEWAY = 60
_SAME_NAMES = 100


class ProviderError(UserError):
    """The provider's answer does not prove who somebody is."""

    title = "Not signed in"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to sign in with the provider, which the browser keeps until it returns."""

    state: str
    nonce: str
    verifier: str
    next: str

    def encoded(self) -> str:
        """Return it as a cookie's value."""
        return base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode()

    @classmethod
    def decoded(cls, text: str) -> "Attempt":
        """Return the attempt of a cookie's value.

        Raises:
            ProviderError: there is none.
        """
        try:
            return cls(**json.loads(base64.urlsafe_b64decode(text)))
        except (ValueError, TypeError):
            raise ProviderError(
                "This attempt to sign in is too old, or began in another browser: sign in again."
            ) from None


@dataclass(frozen=True, slots=True)
class Provider:
    """The provider that the settings name."""

    issuer: str
    client_id: str
    client_secret: str | None

    @classmethod
    def of(cls, settings: Settings) -> "Provider | None":
        """Return the provider, None if there is none."""
        if settings.oidc_issuer is None or settings.oidc_client_id is None:
            return None
        secret = settings.oidc_client_secret
        return cls(settings.oidc_issuer, settings.oidc_client_id, secret.get_secret_value() if secret else None)

    @property
    def name(self) -> str:
        """Return the provider's host name."""
        return urlsplit(self.issuer).hostname or self.issuer

    def client(self) -> httpx.AsyncClient:
        """Return an HTTP client that proves to the provider which site asks."""
        auth = httpx.BasicAuth(self.client_id, self.client_secret) if self.client_secret else None
        return httpx.AsyncClient(auth=auth, timeout=10)


async def begin(provider: Provider, return_address: str, next: str) -> tuple[str, Attempt]:
    """Return the provider's address to send a browser to, and what the browser keeps.

    Raises:
        Unavailable: the provider does not answer.
        ProviderError: it is not one that can be trusted.
    """
    attempt = Attempt(token_urlsafe(24), token_urlsafe(24), token_urlsafe(48), next)
    async with provider.client() as client:
        found = await _metadata(provider, client)
    address = prepare_grant_uri(
        found["authorization_endpoint"],
        provider.client_id,
        "code",
        redirect_uri=return_address,
        scope="openid profile email",
        state=attempt.state,
        nonce=attempt.nonce,
        code_challenge=create_s256_code_challenge(attempt.verifier),
        code_challenge_method="S256",
    )
    return str(address), attempt


async def identify(
    provider: Provider, return_address: str, attempt: Attempt, *, code: str, state: str
) -> dict[str, Any]:
    """Return the claims of whoever comes back from the provider; `iss` and `sub` say who it is.

    Raises:
        Unavailable: the provider does not answer.
        ProviderError: what came back is not what this attempt asked for, or its signature is not the provider's.
    """
    if not code or state != attempt.state:
        raise ProviderError("The answer belongs to another attempt to sign in: sign in again.")
    try:
        async with provider.client() as client:
            found = await _metadata(provider, client)
            sent = {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": return_address,
                "code_verifier": attempt.verifier,
                "client_id": provider.client_id,
            }
            answer = (await client.post(found["token_endpoint"], data=sent)).json()
            keys: Any = await _json(client, found["jwks_uri"])
        token = jwt.decode(answer["id_token"], KeySet.import_key_set(keys), algorithms=_ALGORITHMS)
        _registry(provider, attempt).validate(token.claims)
    except (JoseError, KeyError, ValueError, TypeError) as error:
        raise ProviderError(f"{provider.name} did not say who you are in a way that can be trusted.") from error
    except httpx.HTTPError as error:
        raise _silent(provider) from error
    return dict(token.claims)


def _registry(provider: Provider, attempt: Attempt) -> jwt.JWTClaimsRegistry:
    return jwt.JWTClaimsRegistry(
        leeway=_LEEWAY,
        iss={"essential": True, "value": provider.issuer},
        aud={"essential": True, "value": provider.client_id},
        azp={"value": provider.client_id},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True, "value": attempt.nonce},
    )


async def account_of(session: AsyncSession, claims: dict[str, Any], settings: Settings) -> PersonView:
    """Return the account of these claims; the first sign-in makes one, if the settings say of which role.

    Raises:
        Forbidden: there is no account, and none is made; or it is disabled.
    """
    issuer, subject = str(claims["iss"]), str(claims["sub"])
    person = await people.account_of_subject(session, issuer, subject)
    if person is None and settings.oidc_role is not None:
        for name in _names(claims):
            person = await people.insert_account(session, name, settings.oidc_role, oidc=(issuer, subject))
            person = person or await people.account_of_subject(session, issuer, subject)
            if person is not None:
                break
    if person is None:
        raise Forbidden("You have no account on this site. Ask an admin for an invitation.")
    if person.disabled_at:
        raise Forbidden("Your account on this site is disabled. An admin can enable it.")
    return person


def _names(claims: dict[str, Any]) -> list[str]:
    """Return names to try for a new account: as the provider calls the person, then with a number."""
    said = [claims.get("preferred_username"), claims.get("name"), str(claims.get("email", "")).partition("@")[0]]
    possible = (possible_name(one) for one in said if isinstance(one, str))
    stem = account_name(next((one for one in possible if one), "person")[: MAX_NAME - 4])
    return [stem, *(f"{stem} {number}" for number in range(2, _SAME_NAMES))]


async def _metadata(provider: Provider, client: httpx.AsyncClient) -> dict[str, Any]:
    """Return what the provider says about itself (OpenID Connect Discovery 1.0, §4)."""
    found = await _discover(provider, client)
    addresses = [str(found.get(name, "")) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
    if found.get("issuer") != provider.issuer or not all(map(_is_safe, addresses)):
        raise ProviderError(
            f"{provider.name} does not describe itself as SEESAE_OIDC_ISSUER says it should: the two must be the same "
            "to the letter, and its addresses https."
        )
    return found


async def _discover(provider: Provider, client: httpx.AsyncClient) -> dict[str, Any]:
    try:
        return await _json(client, provider.issuer.rstrip("/") + "/.well-known/openid-configuration")
    except (httpx.HTTPError, ValueError, TypeError) as error:
        raise _silent(provider) from error


async def _json(client: httpx.AsyncClient, address: str) -> dict[str, Any]:
    answer = await client.get(address, auth=None)
    answer.raise_for_status()
    found = answer.json()
    return dict(found)


def _is_safe(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def _silent(provider: Provider) -> Unavailable:
    return Unavailable(f"{provider.name}, with which people sign in here, does not answer. Try again in a moment.")
