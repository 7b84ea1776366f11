"""Client of the inference process, and the requests and answers that it exchanges.

The types of requests and answers are here, not in `app.inference`, so that the site does not import torch.
"""

from http import HTTPStatus
from typing import NoReturn, TypeVar

import httpx
import structlog
from pydantic import BaseModel, Field, ValidationError

from app.errors import NotFound, TooLarge, Unavailable, Unprocessable, UserError
from app.queries.examples import StoredExample
from app.settings import Settings

log = structlog.get_logger("web")

SECRET_HEADER = "X-SeeSAE-Secret"  # noqa: S105 - the header's name

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 120.0
"""The first probe of an SAE loads its model: seconds from a local disk, a minute from a slow one."""

_ERRORS: dict[int, type[UserError]] = {
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TooLarge,
    HTTPStatus.UNPROCESSABLE_ENTITY: Unprocessable,
    HTTPStatus.SERVICE_UNAVAILABLE: Unavailable,
}


class InferenceDown(Unavailable):
    """The inference process does not answer."""

    def __init__(self) -> None:
        super().__init__(
            "The inference process is not answering, so no text can be probed right now; the rest of the site works. "
            "Try again in a moment. If it stays away, look at its log, which seesae serve names."
        )


class ProbeRequest(BaseModel):
    """A prompt to run through an SAE, given by its slug, and its model."""

    sae: str
    text: str


class ProbeAnswer(BaseModel):
    """Activations of an SAE's features on a prompt.

    Its activations are columns of equal length, by feature and then by position: transferring thousands of small
    objects would take longer than the model does.
    """

    token_ids: list[int]
    counted: list[bool] = Field(description="False for BOS and special tokens, whose activations are left out.")
    features: list[int] = Field(description="Feature of each nonzero activation.")
    positions: list[int] = Field(description="Position of its token.")
    activations: list[float]
    percentiles: list[float] | None = Field(description="As app.inference.ranking defines them; None without an index.")
    ranked: list[int] = Field(description="Every active feature once, best first.")
    maxima: list[float] = Field(description="Maximum activations of these features in the index; 0 without one.")


class ExamplesRequest(BaseModel):
    """A sample of a feature's activations in (low, high], from one sequence if it is named."""

    sae: str
    feature: int
    low: float
    high: float
    sequence: int | None = None
    limit: int
    seed: int = 0


class ExamplesAnswer(BaseModel):
    """The number of activations in the range, and the sampled examples, strongest first."""

    index: int = Field(description="Id of the index whose store they come from.")
    found: int
    examples: list[StoredExample]


class TextsRequest(BaseModel):
    """Texts on which to compute one feature."""

    sae: str
    feature: int
    texts: list[str]


class TextActivations(BaseModel):
    """One text's tokens and the feature's activation on each."""

    token_ids: list[int]
    counted: list[bool]
    activations: list[float]


class TextsAnswer(BaseModel):
    """The texts, in the order of the request."""

    texts: list[TextActivations]


Answer = TypeVar("Answer", bound=BaseModel)


class InferenceClient:
    """HTTP client of the inference process, one per web process.

    `transport` replaces the network, such as by an application in the same process.
    """

    def __init__(self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._configured = settings.inference_url is not None
        secret = settings.inference_secret.get_secret_value() if settings.inference_secret else ""
        self._client = httpx.AsyncClient(
            base_url=settings.inference_url or "",
            headers={SECRET_HEADER: secret},
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            transport=transport,
            trust_env=False,  # a proxy for the internet does not reach a local process
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def probe(self, request: ProbeRequest) -> ProbeAnswer:
        """Run a prompt; raises as `_ask`."""
        return await self._ask("/probe", request, ProbeAnswer)

    async def sample_examples(self, request: ExamplesRequest) -> ExamplesAnswer:
        """Sample examples from the activation store; raises as `_ask`."""
        return await self._ask("/examples", request, ExamplesAnswer)

    async def activations_on_texts(self, request: TextsRequest) -> TextsAnswer:
        """Compute one feature on some texts; raises as `_ask`."""
        return await self._ask("/texts", request, TextsAnswer)

    async def _ask(self, path: str, request: BaseModel, answer: type[Answer]) -> Answer:
        """Send a request, and parse the answer.

        Raises:
            InferenceDown: it does not answer, not in time, or in the format of another version.
            UserError: the inference process refused the request.
        """
        if not self._configured:
            raise InferenceDown
        try:
            response = await self._client.post(path, json=request.model_dump())
        except httpx.TransportError as error:
            log.warning("inference_unreachable", error=type(error).__name__)
            raise InferenceDown from None
        if response.status_code != HTTPStatus.OK:
            _raise(response)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError:
            log.error("inference_answer_not_understood")  # noqa: TRY400 - the exception quotes the answer
            raise InferenceDown from None


def _raise(response: httpx.Response) -> NoReturn:
    """Raise the exception for its problem; for a status that reports a fault, raise `InferenceDown`."""
    error = _ERRORS.get(response.status_code)
    if error is None:
        log.warning("inference_failed", status=response.status_code)
        raise InferenceDown
    raise error(str(response.json()["detail"]))
