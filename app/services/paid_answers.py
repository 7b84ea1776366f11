"""Answers of an endpoint, each paid for once: the same request is answered from the database."""

import hashlib
import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.queries.suggestions import ModelAnswer, find_answer, keep_answer
from app.services.llm import EndpointUnusable, LlmClient, Message, RequestFailed

_FAILURES_IN_A_ROW = 5
"""After so many requests without an answer, the endpoint is taken to be down."""


class PaidAnswers:
    """Asks through a client, and keeps each answer before anything else is done with it.

    `paid` and `kept` count answers, and `tokens_in` and `tokens_out` the tokens of those that were paid for now.

    Args:
        sessions: each answer is committed by itself, so a kill loses only requests that are under way.
        client: the endpoint and the model.
        seed: another one asks again.
    """

    def __init__(self, sessions: async_sessionmaker[AsyncSession], client: LlmClient, seed: int = 0) -> None:
        self._sessions = sessions
        self._client = client
        self._seed = seed
        self.paid = self.kept = self.tokens_in = self.tokens_out = 0
        self._failed_in_a_row = 0

    @property
    def model(self) -> str:
        """Name of the model that answers."""
        return self._client.model

    def key(self, messages: Sequence[Message], max_tokens: int) -> str:
        """Return the hash of a request: of the endpoint without its secrets, the model, and all that is asked."""
        address = urlsplit(self._client.endpoint)
        request = [
            f"{address.scheme}://{address.hostname}:{address.port}{address.path}",
            self.model,
            self._seed,
            max_tokens,
            [[message.role, message.content] for message in messages],
        ]
        return hashlib.sha256(json.dumps(request).encode()).hexdigest()

    async def ask(self, messages: list[Message], *, max_tokens: int) -> ModelAnswer:
        """Return the answer to a request, from the database if it was paid for.

        Raises:
            EndpointUnusable: as `LlmClient.ask`, and after several requests in a row that failed.
            RequestFailed: as `LlmClient.ask`.
        """
        key = self.key(messages, max_tokens)
        async with self._sessions() as session:
            known = await find_answer(session, key)
        if known is not None:
            self.kept += 1
            return known
        answer = await self._ask(messages, max_tokens)
        async with self._sessions.begin() as session:
            await keep_answer(session, key, self.model, answer)
        self.paid += 1
        self.tokens_in += answer.tokens_in
        self.tokens_out += answer.tokens_out
        return answer

    async def _ask(self, messages: list[Message], max_tokens: int) -> ModelAnswer:
        try:
            answer = await self._client.ask(messages, max_tokens=max_tokens)
        except RequestFailed as failed:
            self._failed_in_a_row += 1
            if self._failed_in_a_row < _FAILURES_IN_A_ROW:
                raise
            raise EndpointUnusable(
                f"{failed} So ended {_FAILURES_IN_A_ROW} requests in a row. Start the run again once the endpoint "
                "answers: what was answered is kept."
            ) from None
        self._failed_in_a_row = 0
        return answer
