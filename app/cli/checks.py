"""seesae doctor."""

from dataclasses import asdict

import typer

from app.cli.options import Json
from app.cli.outcome import FAILED, answer, notify, report_user_errors
from app.cli.processes import settings_with

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Maintenance")(doctor)


@report_user_errors
def doctor(as_json: Json = False) -> None:
    """Check the setup, and say how to fix what is missing.

    Exits with 1 if anything fails.
    """
    from app.supervision.doctor import examine

    findings = []
    for finding in examine(settings_with()):
        findings.append(finding)
        notify(f"  {finding.subject}: {finding.text}", mark=f"{finding.level:>4}", style=_COLOURS[finding.level])
    failed = sum(finding.level == "fail" for finding in findings)
    text = f"{failed} of {len(findings)} checks failed." if failed else "SeeSAE has everything it needs."
    answer({"ok": not failed, "findings": [asdict(finding) for finding in findings]}, as_json=as_json, text=text)
    if failed:
        raise typer.Exit(FAILED)
