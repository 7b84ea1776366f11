"""Write docs/runs.md, the reference of all kinds of run, from their declarations: python docs/runs.py"""

from pathlib import Path

from pydantic.fields import FieldInfo

from app.cli.run_options import flags, is_argument
from app.pipeline import KINDS
from app.runs.fields import default_text
from app.runs.params import Params
from app.runs.spec import RunSpec

PAGE = Path(__file__).with_name("runs.md")

HEAD = """# Kinds of run

Every piece of long work is a run: it has stages, shows its progress in the terminal and on the site, and continues
after an interruption. This page is written by `python docs/runs.py` from the declarations in `app/pipeline/`.
`GET /api/v1/runs/kinds` gives the same as JSON.
"""


def text() -> str:
    return "\n".join([HEAD, *(_section(spec) for spec in KINDS)])


def _section(spec: RunSpec[Params]) -> str:
    rows = [_row(name, field) for name, field in spec.params.model_fields.items()]
    table = ["| parameter | option | default | meaning |", "| --- | --- | --- | --- |", *rows]
    stages = spec.stages(spec.params.model_construct())
    return "\n".join(
        [
            f"## {spec.kind}",
            "",
            spec.summary,
            "",
            *table,
            "",
            f"Stages: {', '.join(f'`{stage.name}`' for stage in stages)}.",
            "",
        ]
    )


def _row(name: str, field: FieldInfo) -> str:
    option = "argument" if is_argument(field) else f"`{flags(name, field)}`"
    default = default_text(field) or ("required" if field.is_required() else "")
    cells = (f"`{name}`", option, default, field.description or "")
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
