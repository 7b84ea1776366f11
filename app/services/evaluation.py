"""The command that measures an SAE, as pages print it."""

from app.queries.saes import SaeDetail


def evaluate_command(sae: SaeDetail, *options: str) -> str:
    """Return the command; it names a corpus only where nothing here was trained or indexed on one."""
    known = sae.index is not None or "run" in sae.config
    return " ".join(("seesae evaluate", sae.slug, *(() if known else ("--corpus CORPUS",)), *options))
