"""Webhooks: where acts are sent, signed as https://www.standardwebhooks.com has it, and what addresses are refused.

A webhook belongs to an SAE, or one of its label sets, or to a monitor. Of labels a message says who did what to which
label, comment or decision, and quotes no text: that is read through the API, under the rules of what its reader may
see. Of a monitor it gives the scores of alerts, and their texts only where the monitor keeps them.
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
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.errors import Conflict, Forbidden, NotFound, Unprocessable, UserError
from app.queries import webhooks as queries
from app.queries.label_sets import find_set
from app.queries.monitors import AlertView, strongest_alerts
from app.queries.sql.locks import lock_until_commit
from app.queries.webhooks import Message, WebhookView
from app.services.actors import Actor, Role, ensure_person
from app.services.monitors import find_monitor
from app.services.saes import find_sae
from app.settings import Settings
from app.tls import authorities

KINDS = ("label", "decision", "comment")
MONITOR_KINDS = ("alert", "monitor")
"""Acts that a webhook is told of: on labels, and on monitors. Alerts are those raised and those acknowledged."""
MAX_OF_MONITOR = 10
"""Webhooks of one monitor: whoever made it may add them."""
LISTED = 20
"""Alerts that one message lists, the strongest; it says how many there are."""
_TEXT = 2_000
"""Characters of an alert's text that a message quotes."""
MAX_URL = 2_000
PREFIX = "whsec_"
WAITS = (5, 60, 300, 1_800, 7_200, 18_000)
"""Seconds before each further attempt; after the last one the delivery has failed."""
_TIMEOUT = 10.0
_NAT64_HERE = ipaddress.ip_network("64:ff9b:1::/48")


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
    kinds: Sequence[str] | None = None,
    sae: str = "",
    label_set: str = "",
    monitor: str = "",
) -> tuple[WebhookView, str]:
    """Make a webhook for acts on an SAE, in one of its sets, or on a monitor; return it with its secret, shown once.

    Raises:
        Conflict: the monitor has as many webhooks as it may have.
        Forbidden: the monitor is somebody else's, or the actor is no admin.
        NotFound: there is no such SAE, set or monitor.
        Unprocessable: the address cannot be used, or a kind is not one.
    """
    if bool(sae) == bool(monitor) or (monitor and label_set):
        raise Unprocessable("Say what the webhook is told of: an SAE, and perhaps one of its label sets; or a monitor.")
    of = await _of_monitor(session, actor, monitor) if monitor else await _of_sae(session, actor, sae, label_set)
    all_kinds = MONITOR_KINDS if monitor else KINDS
    wanted = [kind for kind in all_kinds if kinds is None or kind in kinds]
    if not wanted or set(kinds or ()) - set(all_kinds):
        raise Unprocessable(f"Say what to send: one or more of {', '.join(all_kinds)}.")
    await addresses_of(url, settings)
    secret = PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    webhook_id = await queries.insert_webhook(
        session, url=url, secret=secret, kinds=wanted, of=of, created_by=await ensure_person(session, actor)
    )
    return await find_webhook(session, webhook_id, actor=actor), secret


async def _of_monitor(session: AsyncSession, actor: Actor, name: str) -> Mapping[str, Any]:
    found = await find_monitor(session, name)
    actor.check_change(found.owner_id, "This monitor", found.owner)
    await lock_until_commit(session, f"webhooks of monitor {found.id}")  # who adds some at once takes turns
    if await queries.count_webhooks(session, found.id) >= MAX_OF_MONITOR:
        raise Conflict(f"The monitor {found.name} has {MAX_OF_MONITOR} webhooks. Delete one of them first.")
    return {"monitor_id": found.id, "monitor": found.name}


async def _of_sae(session: AsyncSession, actor: Actor, sae: str, label_set: str) -> Mapping[str, Any]:
    _check_admin(actor)
    found = await find_sae(session, sae)
    if not label_set:
        return {"sae_id": found.id}
    own = await find_set(session, found.id, label_set)
    if own is None:
        raise NotFound(f"{found.slug} has no label set “{label_set[:80]}”.")
    return {"sae_id": found.id, "label_set_id": own.id}


def _check_admin(actor: Actor) -> None:
    if actor.role < Role.admin:
        raise Forbidden(
            f"Webhooks of SAEs and their label sets are for admins, and {actor.name} is a {actor.role.name}. Those of "
            "a monitor are for whoever may change it."
        )


def may_see(actor: Actor, webhook: WebhookView) -> bool:
    """True if an actor may see and delete a webhook: an admin, or of a monitor whoever may change that.

    Its address can hold secrets of other services. Of a monitor that was deleted, it is also its maker's.
    """
    if actor.role >= Role.admin:
        return True
    return webhook.monitor is not None and actor.may_change(webhook.monitor_owner_id or webhook.created_by_id)


async def list_webhooks(session: AsyncSession, *, actor: Actor, monitor: str = "") -> list[WebhookView]:
    """Return the webhooks that an actor may see, the newest first: all, or those of a monitor."""
    found = await queries.list_webhooks(session)
    return [one for one in found if may_see(actor, one) and monitor in ("", one.monitor)]


async def find_webhook(session: AsyncSession, webhook_id: int, *, actor: Actor) -> WebhookView:
    """Return a webhook.

    Raises:
        Forbidden: it is not for this actor to see.
        NotFound: there is none.
    """
    found = await queries.get_webhook(session, webhook_id)
    if found is None:
        raise NotFound(f"There is no webhook {webhook_id}.")
    if not may_see(actor, found):
        if found.monitor is None:
            _check_admin(actor)
        raise Forbidden(f"This webhook is of the monitor {found.monitor}: whoever may change that may see it.")
    return found


async def addresses_of(url: str, settings: Settings) -> list[str]:
    """Return the addresses that a webhook's host has now.

    Raises:
        Unprocessable: it is no web address, or one of them is not on the public internet and the setting forbids it.
    """
    host, port = _host(url)
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


def _host(url: str) -> tuple[str, int]:
    """Return the host and the port of a web address, as the client that sends to it reads them."""
    try:
        parts = httpx.URL(url)
        host = parts.host
    except (httpx.InvalidURL, ValueError):  # ValueError: a host that IDNA forbids
        parts, host = httpx.URL(""), ""
    port = {"http": 80, "https": 443}.get(parts.scheme, 0) if parts.port is None else parts.port
    is_address = bool(host) and 0 < port < 65_536 and len(url) <= MAX_URL and url.isascii()
    if not is_address or parts.userinfo:
        raise Unprocessable(
            "A webhook needs a web address, such as https://example.org/hook, without a password in it."
        )
    return host, port


def is_public(address: str) -> bool:
    """True for an address on the public internet; one that wraps another is as private as that may be."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.sixtofour is not None or ip.teredo is not None or ip.is_site_local or ip in _NAT64_HERE:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved  # ::/8, with NAT64, counts as reserved


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
        await queries.close_alerts(session, delivery_id)
        message = await queries.get_message(session, delivery_id)
        if message is None:
            return
        data = _label_data(message) if message.monitor is None else await _monitor_data(session, settings, message)
    payload = {"type": message.act.replace(" ", "."), "timestamp": message.at.isoformat(), "data": data}
    body = json.dumps(payload, separators=(",", ":")).encode()
    status, error = await send(message, body, settings)
    wait = WAITS[message.attempts] if error and message.attempts < len(WAITS) else None
    state = "delivered" if not error else "failed" if wait is None else "waiting"
    async with transaction(sessions) as session:
        await queries.note_attempt(session, delivery_id, state=state, status=status, error=error)
    if wait is not None:
        raise NotDelivered(wait)


async def send(message: Message, body: bytes, settings: Settings) -> tuple[int | None, str]:
    """Send a message to an address that was looked at; return the receiver's status, and what went wrong or ''."""
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
                httpx.AsyncClient(verify=authorities(), trust_env=False, follow_redirects=False) as client,
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


def _label_data(message: Message) -> dict[str, object]:
    return {
        "activity": message.activity_id,
        "act": message.act,
        "person": message.person,
        "sae": message.sae,
        "set": message.label_set,
        "feature": message.feature,
        "subject": message.subject,
    }


async def _monitor_data(session: AsyncSession, settings: Settings, message: Message) -> dict[str, object]:
    watched = await queries.get_monitor_state(session, message.activity_id)
    found = await strongest_alerts(session, message.activity_id, limit=LISTED)
    keeps = watched is not None and watched.keep_text
    return {
        "activity": message.activity_id,
        "act": message.act,
        "person": message.person,
        "monitor": message.monitor,
        "url": f"{settings.base_url or ''}/monitors/{message.monitor}",
        "state": "deleted" if watched is None else watched.state,
        "candidate": watched and watched.candidate,
        "threshold": watched and watched.threshold,
        "fpr": watched and watched.fpr,
        "alerts": message.alerts,
        "strongest": [_alert(alert, keeps_text=keeps) for alert in found],
    }


def _alert(alert: AlertView, *, keeps_text: bool) -> dict[str, object]:
    said = {
        "id": alert.id,
        "score": alert.score,
        "threshold": alert.threshold,
        "source": alert.source,
        "run": alert.run_id,
        "place": alert.place,
        "at": alert.created_at.isoformat(),
    }
    return said | {"text": alert.text[:_TEXT]} if keeps_text and alert.text is not None else said
