"""The kinds of shared work; `app.pipeline.shared_work`, which needs torch, is imported when one is opened."""

from typing import TYPE_CHECKING

from app.runs.sharing import Work, register_work

if TYPE_CHECKING:
    from app.runs.job_context import JobContext
    from sae_core.shards import ShardWork


def open_work(ctx: "JobContext", work: Work) -> "ShardWork":
    """Open a shared work, to help with it.

    Raises:
        UserError, SAEError: this worker cannot, and why.
    """
    from app.pipeline.shared_work import OPENERS

    return OPENERS[work["kind"]](ctx, work)


def register_kinds() -> None:
    """Make all kinds known."""
    for kind in ("forward", "encode", "statistics"):
        register_work(kind, open_work)
