"""All features as `GET /api/v1/saes/{sae}/features/{index}` gives each, one a line."""

from pathlib import Path

from app.exchange.features import Progress, Source
from app.web.api.features import feature_out

FEATURES = "features.jsonl"


async def write_jsonl(source: Source, folder: Path, progress: Progress) -> None:
    """Write the file."""
    with (folder / FEATURES).open("w", encoding="utf-8") as file:
        async for detail in source.features(progress):
            file.write(feature_out(detail).model_dump_json() + "\n")
