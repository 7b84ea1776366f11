"""The `seesae` command, one module per group; what is slow to import is imported by the command that needs it."""

import typer

from app.cli import (
    accounts,
    bench,
    checks,
    databases,
    deleting,
    demo,
    edits,
    labels,
    monitors,
    probe,
    processes,
    run_commands,
    runs,
    text_sets,
)
from app.cli.encoding import degrade_output
from app.cli.outcome import take_ends_for_ctrl_c

HELP = """See what a language model has learned.

Train sparse autoencoders (SAEs), browse their features, label and probe them.

Start with [bold]seesae demo[/]: it fetches a small model and some text, trains an SAE and opens the site on it.
Everything is kept in one folder, SEESAE_HOME; every setting is an environment variable SEESAE_*."""

app = typer.Typer(
    help=HELP, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False
)
demo.register(app)
processes.register(app)
run_commands.register(app)
probe.register(app)
monitors.register(app)
runs.register(app)
accounts.register(app)
databases.register(app)
edits.register(app)
labels.register(app)
text_sets.register(app)
deleting.register(app)
checks.register(app)
bench.register(app)


def main() -> None:
    """Run the command line; exits with 0 done, 1 failed, 2 bad usage, 130 stopped by Ctrl-C or a signal to end."""
    degrade_output()
    take_ends_for_ctrl_c()
    app(prog_name="seesae")
