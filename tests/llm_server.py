"""A local server of the OpenAI protocol, whose answers a test writes."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.factories import Synthetic


@dataclass(frozen=True)
class Reply:
    """What the server sends. A reply that is `cut` ends in the middle of its body."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False

    @classmethod
    def error(cls, status: int, message: str, **headers: str) -> "Reply":
        """Return an error in the protocol's form."""
        return cls(json.dumps({"error": {"message": message}}).encode(), status, headers)


def completion(text: str | None, *, finish: str = "stop", usage: bool = True) -> Reply:
    """Return an answer in the protocol's form."""
    answer: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}
    if usage:
        answer["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return Reply(json.dumps(answer).encode())


Answer = Callable[[dict[str, Any]], Reply | Awaitable[Reply]]


class LlmServer:
    """The server; `answer` may be replaced while it runs."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, each on a connection of its own."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
            headers = {name.lower(): value for name, _, value in lines}
            request = json.loads(await reader.readexactly(int(headers["content-length"])))
            self.requests.append(request)
            self.headers.append({**headers, "path": head.split()[1]})
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                reply = self.answer(request)
                if not isinstance(reply, Reply):
                    reply = await reply
            finally:
                self.at_once -= 1
            sent = {"content-length": str(len(reply.body)), "connection": "close", **reply.headers}
            writer.write(f"HTTP/1.1 {reply.status} X\r\n".encode())
            writer.write("".join(f"{name}: {value}\r\n" for name, value in sent.items()).encode() + b"\r\n")
            writer.write(reply.body[: len(reply.body) // 2] if reply.cut else reply.body)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def llm_server(answer: Answer) -> AsyncIterator[LlmServer]:
    """Run the server on loopback."""
    own = LlmServer(answer)
    server = await asyncio.start_server(own.serve, "127.0.0.1", 0)
    own.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield own
    finally:
        server.close()


def top_word(made: Synthetic, feature: int) -> str:
    """Return the word on which a feature is most active."""
    place = made.features.activations[feature].argmax()
    return made.corpus.vocabulary[made.corpus.token_ids.reshape(-1)[place]].decode().strip()


def word_finder(request: dict[str, Any]) -> Reply:
    """Rate texts by whether they hold the word that the label is, or have it marked."""
    user = request["messages"][1]["content"]
    label = json.loads(user.splitlines()[0].removeprefix("Description: "))
    texts = [json.loads(line) for line in user.splitlines() if line.startswith("{")]
    assert not any(set(text) - {"number", "text"} for text in texts), "the tester sees text alone"
    active = re.compile(f"<<[^>]*{label}" if "<<" in user else label)
    return completion(json.dumps({text["number"]: 10 * bool(active.search(text["text"])) for text in texts}))


def marked_word(request: dict[str, Any]) -> Reply:
    """Label a feature with the word that most of its examples mark, and rate texts by whether they hold a label."""
    if "You study features" not in request["messages"][0]["content"]:
        return word_finder(request)
    words = Counter(re.findall(r"<<\W*(\w+)", request["messages"][1]["content"]))
    return completion(f"Explanation: {words.most_common(1)[0][0]}")
