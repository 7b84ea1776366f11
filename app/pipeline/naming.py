"""Names of SAEs."""


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
