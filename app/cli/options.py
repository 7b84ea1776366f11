"""Options that several commands share."""

from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="End with one JSON object on standard output; progress goes to standard error.")
]
Host = Annotated[str | None, typer.Option(help="Address to listen on; SEESAE_HOST, 127.0.0.1 by default.")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port to listen on; SEESAE_PORT, 8000 by default. 0 takes any.")
]
Corpus = Annotated[
    str,
    typer.Option(
        help="Text: a .json, .jsonl, .csv, .parquet or .txt file, a data set of the Hugging Face hub, or "
        "wikipedia-summaries, which needs no hub."
    ),
]
Tokens = Annotated[int | None, typer.Option(min=1, help="Tokens to use at most; all of the corpus by default.")]
Length = Annotated[int, typer.Option(min=8, max=8192, help="Tokens in a sequence.")]
Device = Annotated[
    str | None, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1 or mps; SEESAE_DEVICE, auto by default.")
]
Fd = Annotated[int | None, typer.Option("--fd", hidden=True)]
