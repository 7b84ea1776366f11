"""Names of SAEs and titles of runs. Apart from the work, so that a command knows them without loading torch."""

from pathlib import PurePath

from app.runs.params import DemoParams, ImportParams

DEMO_MODEL = "smollm2-135m"
DEMO_CORPUS = "wikipedia-summaries"

_DEFAULT = DemoParams()


def sae_slug(
    model: str, hook: str, architecture: str, width: int, k: int | None = None, hook_out: str | None = None
) -> str:
    """Name an SAE: `smollm2-135m-l9-batchtopk-4096`.

    Args:
        model: the model's slug.
        hook: as `str(HookPoint)` gives it, `resid_post.9`.
        architecture: as in `ARCHITECTURES`.
        width: number of features.
        k: active features per token, where they tell SAEs apart: `smollm2-135m-l9-batchtopk-4096-k16`.
        hook_out: what a transcoder reconstructs: `smollm2-135m-l9-mlp-in-to-mlp-out-topk-4096`.
    """
    point, _, layer = hook.partition(".")
    place = f"l{layer}" if point == "resid_post" else f"l{layer}-{point.replace('_', '-')}"
    if hook_out is not None:
        point_out, _, layer_out = hook_out.partition(".")
        place += "-to-" + (f"l{layer_out}-" if layer_out != layer else "") + point_out.replace("_", "-")
    return f"{model}-{place}-{architecture}-{width}" + ("" if k is None else f"-k{k}")


def demo_slug(params: DemoParams) -> str:
    """The demo's SAE; what is not the default is named, so that demos of different settings live side by side."""
    slug = sae_slug(
        DEMO_MODEL,
        f"resid_post.{params.layer}",
        "batchtopk",
        params.width,
        params.k if params.k != _DEFAULT.k else None,
    )
    if params.tokens != _DEFAULT.tokens:
        slug += f"-t{params.tokens}"
    return slug


def demo_title(params: DemoParams) -> str:
    """The demo's run, for a page."""
    return f"Demo: {params.width:,} features of SmolLM2-135M, layer {params.layer}, on {params.tokens:,} tokens"


def import_title(params: ImportParams) -> str:
    """The run of an import, for a page; of a path on the server only the last name is said."""
    path = PurePath(params.source)
    source = path.name if path.is_absolute() else params.source
    return f"Import {source}" + (f" as {params.name}" if params.name else "")
