"""Make a monitor: train candidates on two sides of texts, calibrate them, compare them, keep the best."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from app.errors import Unprocessable
from app.pipeline.params import SaeParams
from app.pipeline.read_texts import MAX_TOKENS, MaxTokens
from app.pipeline.stages import CALIBRATION, READING
from app.runs.params import WITH_A_LETTER, Option, Several, Slug
from app.runs.spec import Estimate, Result, RunSpec
from app.services.monitor_recipes import RECIPES
from app.services.vectors import unpack_vector

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings

_SIDE = "a text set, or SET:LABEL for one label of it"
MAX_DIRECTION = 400_000
"""Characters of a direction: 75,000 numbers."""
On = Literal["features", "direction", "probe"]
Tokens = Literal["all", "user", "assistant", "last"]
Pool = Literal["max", "mean", "top", "ema"]


class MonitorParams(SaeParams):
    """An SAE, positive and benign texts, and what is watched."""

    name: Annotated[
        Slug,
        Option(argument=True),
        Field(
            pattern=WITH_A_LETTER,
            description=f"Name of the monitor. {', '.join(RECIPES)} are recipes, which bring their texts along.",
        ),
    ]
    positive: Annotated[
        str,
        Option(default="those of a recipe"),
        Field(max_length=200, description=f"Texts that should alert: {_SIDE}."),
    ] = ""
    benign: Annotated[
        str,
        Option(default="those of a recipe"),
        Field(max_length=200, description=f"Texts that should not, which set the threshold: {_SIDE}."),
    ] = ""
    fpr: Annotated[
        float,
        Field(ge=0.0001, le=0.5, description="Share of benign texts that may alert; 0.01 takes 299 to calibrate."),
    ] = 0.01
    tokens: Annotated[Tokens, Field(description="Tokens that are watched: those of a chat's turns, or all.")] = "all"
    pool: Annotated[
        Pool, Field(description="How tokens' activations become one: top is the mean of the 5 largest.")
    ] = "max"
    on: Annotated[
        On | None,
        Option(default="the best of them"),
        Field(description="Watch SAE features, the difference of means or a given direction, or a linear probe."),
    ] = None
    features: Annotated[
        Several[Annotated[int, Field(ge=0)]] | None,
        Option(default="chosen on training texts"),
        Field(description="Numbers of the features to watch, such as 3,14,15."),
    ] = None
    direction: Annotated[
        str | None,
        Option(default="trained, if at all", metavar="FILE", rare=True, vector=True),
        Field(
            min_length=1,
            max_length=MAX_DIRECTION,
            description="A direction to watch: a safetensors file with one vector, kept as float32 in base64.",
        ),
    ] = None
    positive_elsewhere: Annotated[
        str | None,
        Option(rare=True),
        Field(min_length=1, max_length=200, description=f"Positive texts from elsewhere, to try it on: {_SIDE}."),
    ] = None
    benign_elsewhere: Annotated[
        str | None,
        Option(rare=True),
        Field(min_length=1, max_length=200, description=f"Benign texts from elsewhere: {_SIDE}."),
    ] = None
    keep_text: Annotated[
        bool, Option(flags="--keep-text/--no-text", rare=True), Field(description="Keep the text of an alert.")
    ] = False
    max_tokens: MaxTokens = MAX_TOKENS

    @model_validator(mode="before")
    @classmethod
    def _of_recipe(cls, given: Any) -> Any:
        """Take what a recipe says where neither side is given."""
        recipe = RECIPES.get(given.get("name", "")) if isinstance(given, dict) else None
        if recipe is None or given.get("positive") or given.get("benign"):
            return given
        elsewhere = dict(zip(("positive_elsewhere", "benign_elsewhere"), recipe.elsewhere, strict=True))
        taken = {name: getattr(recipe, name) for name in ("positive", "benign", "fpr", "tokens", "pool")}
        return {**taken, **elsewhere, **{name: value for name, value in given.items() if value is not None}}

    @model_validator(mode="after")
    def _is_whole(self) -> "MonitorParams":
        if self.name == "new":  # the form that makes a monitor is at its address
            raise ValueError("A monitor cannot be named “new”. Choose another name.")
        if not self.positive or not self.benign:
            raise ValueError(f"Give positive and benign texts, or one of the names {', '.join(RECIPES)}.")
        if self.features is not None and self.on not in (None, "features"):
            raise ValueError(f"Features are given, and `on` is {self.on}. Leave one of them out.")
        if self.direction is not None and (self.features is not None or self.on not in (None, "direction")):
            raise ValueError("A direction is given, and features or another `on`. Leave one of them out.")
        if self.direction is not None:
            try:
                unpack_vector(self.direction)
            except Unprocessable as error:
                raise ValueError(str(error)) from None
        if (self.positive_elsewhere is None) != (self.benign_elsewhere is None):
            raise ValueError("Texts from elsewhere are of two kinds: give positive and benign ones, or neither.")
        return self

    @property
    def sides(self) -> tuple[str, ...]:
        """All sides that are read, each once."""
        found = (self.positive, self.benign, self.positive_elsewhere, self.benign_elsewhere)
        return tuple(dict.fromkeys(side for side in found if side is not None))


async def check(session: "AsyncSession", settings: "Settings", params: MonitorParams) -> Estimate:
    """Refuse what cannot become a monitor, before the model reads anything."""
    from app.pipeline.checks import check_monitor

    return await check_monitor(session, params)


async def run_monitor(run: "RunContext", ctx: "JobContext", params: MonitorParams) -> Result:
    """Read what was not read before, train and compare, and keep the monitor."""
    from app.pipeline.calibrated_monitors import make_monitor

    return await make_monitor(run, ctx, params)


MONITOR = RunSpec(
    kind="monitor",
    help="""Make a monitor that alerts on texts like the positive ones, with a threshold for a false-positive rate.

    SAE features and what is simpler (a probe on raw activations, a difference of means, a bag of words, length) are
    trained on one part of the texts, calibrated on another and compared on a third. The best on the calibration texts
    is used, unless --on or --features say otherwise; what the others do stands beside it.

    Examples:
      seesae monitor add smollm2-135m-l9-batchtopk-4096 toxic-text
      seesae monitor add smollm2-135m-l9-batchtopk-4096 spam --positive mails:spam --benign mails:ham --fpr 0.05
    """,
    params=MonitorParams,
    stages=lambda _params: (*READING, *CALIBRATION),
    title=lambda params: f"Monitor {params.name}: {params.positive} against {params.benign}",
    check=check,
    work=run_monitor,
    result_order=(
        "monitor",
        "sae",
        "candidate",
        "title",
        "features",
        "threshold",
        "calibration",
        "live",
        "test",
        "out_of_distribution",
        "baselines",
        "page",
    ),
    leads_to=("Compare the candidates", "/monitors/{monitor}/candidates"),
    next_step=lambda result: f"See it on the site, under {result['page']}.",
    panel="",
)
