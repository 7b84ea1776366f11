"""Names of SAEs and titles of runs. Apart from the work, so that a command knows them without loading torch."""

from app.jobs.params import DemoParams

DEMO_MODEL = "smollm2-135m"
DEMO_CORPUS = "wikipedia-summaries"

_DEFAULT = DemoParams()


def sae_slug(model: str, hook: str, architecture: str, width: int) -> str:
    """Name an SAE: `smollm2-135m-l9-batchtopk-4096`; a hook point other than resid_post is named too.

    Args:
        model: the model's slug.
        hook: as `str(HookPoint)` gives it, `resid_post.9`.
        architecture: as in `ARCHITECTURES`.
        width: number of features.
    """
    point, _, layer = hook.partition(".")
    place = f"l{layer}" if point == "resid_post" else f"l{layer}-{point.replace('_', '-')}"
    return f"{model}-{place}-{architecture}-{width}"


def demo_slug(params: DemoParams) -> str:
    """The demo's SAE; what is not the default is named, so that demos of different settings live side by side."""
    slug = sae_slug(DEMO_MODEL, f"resid_post.{params.layer}", "batchtopk", params.width)
    if params.k != _DEFAULT.k:
        slug += f"-k{params.k}"
    if params.tokens != _DEFAULT.tokens:
        slug += f"-t{params.tokens}"
    return slug


def demo_title(params: DemoParams) -> str:
    """The demo's run, for a page."""
    return f"Demo: {params.width:,} features of SmolLM2-135M, layer {params.layer}, on {params.tokens:,} tokens"
