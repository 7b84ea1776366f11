"""Webhooks: where acts are sent, signed as https://www.standardwebhooks.com has it, and what addresses are refused.

A message says who did what to which label, comment or decision, and quotes no text: that is read through the API,
under the rules of what its reader may see.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.errors import NotFound, Unprocessable, UserError
from app.queries import webhooks as queries
from app.queries.label_sets import find_set
from app.queries.saes import SaeDetail
from app.queries.webhooks import Message, WebhookView
from app.services.actors import Actor, ensure_person
from app.services.saes import find_sae
from app.settings import Settings

KINDS = ("label", "decision", "comment")
MAX_URL = 2_000
PREFIX = "whsec_"
WAITS = (5, 60, 300, 1_800, 7_200, 18_000)
"""Seconds before each further attempt; after the last one the delivery has failed."""
_TIMEOUT = 10.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotDelivered(Exception):
    """The receiver did not take it; it is sent again `retry_in` seconds later."""

    def __init__(self, retry_in: int) -> None:
        super().__init__("not delivered")
        self.retry_in = retry_in


async def create_webhook(
    session: AsyncSession,
    settings: Settings,
    *,
    actor: Actor,
    url: str,
    kinds: Sequence[str],
    sae: str,
    label_set: str = "",
) -> tuple[WebhookView, str]:
    """Make a webhook for acts on an SAE, or in one of its sets; return it with its secret, to be shown once.

    Raises:
        NotFound: there is no such SAE or set.
        Unprocessable: the address cannot be used, or a kind is not one.
    """
    found = await find_sae(session, sae)
    wanted = [kind for kind in KINDS if kind in kinds]
    if not wanted or set(kinds) - set(KINDS):
        raise Unprocessable(f"Say what to send: one or more of {', '.join(KINDS)}.")
    await addresses_of(url, settings)
    secret = PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    webhook_id = await queries.insert_webhook(
        session,
        url=url,
        secret=secret,
        kinds=wanted,
        sae_id=found.id,
        label_set_id=await _set_id(session, found, label_set),
        created_by=await ensure_person(session, actor),
    )
    return await find_webhook(session, webhook_id), secret


async def _set_id(session: AsyncSession, sae: SaeDetail, name: str) -> int | None:
    if not name:
        return None
    found = await find_set(session, sae.id, name)
    if found is None:
        raise NotFound(f"{sae.slug} has no label set “{name[:80]}”.")
    return found.id


async def find_webhook(session: AsyncSession, webhook_id: int) -> WebhookView:
    """Return a webhook.

    Raises:
        NotFound: there is none.
    """
    found = await queries.get_webhook(session, webhook_id)
    if found is None:
        raise NotFound(f"There is no webhook {webhook_id}.")
    return found


async def addresses_of(url: str, settings: Settings) -> list[str]:
    """Return the addresses that a webhook's host has now.

    Raises:
        Unprocessable: it is no web address, or one of them is not on the public internet and the setting forbids it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.username or len(url) > MAX_URL or not url.isascii():
        raise Unprocessable(
            "A webhook needs a web address, such as https://example.org/hook, without a password in it."
        )
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Unprocessable(f"The host of this webhook, {host[:100]}, has no address.") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not settings.webhooks_to_private and not all(is_public(address) for address in addresses):
        raise Unprocessable(
            "This webhook leads to a private address, of this machine or its network. Whoever runs the site can allow "
            "that with SEESAE_WEBHOOKS_TO_PRIVATE=1."
        )
    return addresses


def is_public(address: str) -> bool:
    """True for an address on the public internet; one that wraps another is as private as that may be."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.sixtofour is not None or ip.teredo is not None or ip in _NAT64:
            return False
    return ip.is_global and not ip.is_multicast


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of a message: HMAC-SHA256 over id, time and body."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


async def deliver(sessions: async_sessionmaker[AsyncSession], settings: Settings, delivery_id: int) -> None:
    """Send one message, and note how it went. No transaction is open while the receiver takes its time.

    Raises:
        NotDelivered: it is to be sent again.
    """
    async with transaction(sessions) as session:
        message = await queries.get_message(session, delivery_id)
    if message is None:
        return
    status, error = await send(message, settings)
    wait = WAITS[message.attempts] if error and message.attempts < len(WAITS) else None
    state = "delivered" if not error else "failed" if wait is None else "waiting"
    async with transaction(sessions) as session:
        await queries.note_attempt(session, delivery_id, state=state, status=status, error=error)
    if wait is not None:
        raise NotDelivered(wait)


async def send(message: Message, settings: Settings) -> tuple[int | None, str]:
    """Send a message to an address that was looked at; return the receiver's status, and what went wrong or ''."""
    body = json.dumps(_payload(message), separators=(",", ":")).encode()
    message_id, timestamp = f"msg_{message.id}", int(time.time())
    try:
        async with asyncio.timeout(_TIMEOUT):
            address = (await addresses_of(message.url, settings))[0]
            url = httpx.URL(message.url)
            headers = {
                "Host": url.netloc.decode("ascii"),
                "Content-Type": "application/json",
                "User-Agent": "SeeSAE",
                "webhook-id": message_id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signature(message.secret, message_id, timestamp, body),
            }
            # The address itself, so that the host's name cannot mean another one by now.
            async with (
                httpx.AsyncClient(trust_env=False, follow_redirects=False) as client,
                client.stream(
                    "POST",
                    url.copy_with(host=address),
                    content=body,
                    headers=headers,
                    extensions={"sni_hostname": url.host},
                ) as response,
            ):
                status = response.status_code
    except TimeoutError:
        return None, f"No answer within {_TIMEOUT:.0f} s."
    except UserError as error:
        return None, str(error)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return None, f"Not reached: {type(error).__name__}."
    return status, "" if httpx.codes.is_success(status) else f"The receiver answered {status}."


def _payload(message: Message) -> dict[str, object]:
    return {
        "type": message.act.replace(" ", "."),
        "timestamp": message.at.isoformat(),
        "data": {
            "activity": message.activity_id,
            "act": message.act,
            "person": message.person,
            "sae": message.sae,
            "set": message.label_set,
            "feature": message.feature,
            "subject": message.subject,
        },
    }
