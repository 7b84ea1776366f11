"""Options that several commands share. Parameters of runs are made from their declarations: see `run_options`."""

from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="End with one JSON object on standard output; progress goes to standard error.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Delete without asking.")]
Host = Annotated[str | None, typer.Option(help="Address to listen on; SEESAE_HOST, 127.0.0.1 by default.")]
Port = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Port to listen on; SEESAE_PORT, 8000 by default. 0 picks a free port."),
]
Device = Annotated[
    str | None,
    typer.Option(help="Device to compute on: auto, cpu, cuda, cuda:1 or mps; SEESAE_DEVICE, auto by default."),
]
Queue = Annotated[
    bool, typer.Option("--queue", help="Leave the work to a worker, and print the run's number: see seesae runs.")
]
Fd = Annotated[int | None, typer.Option("--fd", hidden=True)]
