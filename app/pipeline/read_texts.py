"""Read a text set with a model and an SAE."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from app.pipeline.params import SaeParams
from app.pipeline.stages import READING
from app.runs.params import Option
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings

MAX_TOKENS = 512
"""Tokens per text that are read where nothing else is asked for."""

SetName = Annotated[
    str,
    Option(argument=True, metavar="SET", label="Text set"),
    Field(min_length=1, max_length=100, description="Name of the text set."),
]
MaxTokens = Annotated[
    int,
    Option(rare=True),
    Field(ge=8, le=8192, description="Most tokens per text; what follows is not read, and counted as truncated."),
]


class ReadTextsParams(SaeParams):
    """An SAE and a text set."""

    textset: SetName
    max_tokens: MaxTokens = MAX_TOKENS


async def check(session: "AsyncSession", settings: "Settings", params: ReadTextsParams) -> Estimate:
    """Refuse a set or an SAE that is not there, and say about how many tokens the model reads."""
    from app.pipeline.checks import check_reading

    return await check_reading(session, params.sae, [params.textset], params.max_tokens)


async def run_read_texts(run: "RunContext", ctx: "JobContext", params: ReadTextsParams) -> Result:
    """Read what was not read before."""
    from app.pipeline.text_readings import TextReader

    reader = await TextReader.open(run, ctx, params.sae, max_tokens=params.max_tokens)
    read = await reader.read(params.textset)
    reading = read.reading
    return {
        "sae": params.sae,
        "textset": params.textset,
        "texts": reading.texts,
        "tokens": reading.tokens,
        "truncated": int(reading.truncated.sum()),
        "active_features": int((reading.features.sum(axis=0) > 0).sum()),
        **({"notes": [read.note]} if read.note else {}),
    }


READ_TEXTS = RunSpec(
    kind="read-texts",
    help="""Run the model and an SAE over a text set, and keep every feature's activations on its texts.

    Comparisons of texts, monitors and audits read a set in the same way when they need it, so this command is there to
    do it in advance. A set is read once per SAE. A run that was stopped continues from where it was.

    Examples:
      seesae read-texts smollm2-135m-l9-batchtopk-4096 imdb
      seesae read-texts smollm2-135m-l9-batchtopk-4096 imdb --max-tokens 128 --queue
    """,
    params=ReadTextsParams,
    stages=lambda _params: READING,
    title=lambda params: f"Read the texts of {params.textset} with {params.sae}",
    check=check,
    work=run_read_texts,
    result_order=("sae", "textset", "texts", "tokens", "truncated", "active_features"),
    leads_to=("See the text set", "/textsets/{textset}"),
)
