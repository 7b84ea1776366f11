"""Errors of `sae_core` that a person can fix.

    SAEError
    ├── ModelError         a model, tokenizer or hook point that cannot be used
    │   └── BackendError   something that the back end which runs the model cannot do
    ├── CorpusError        text that cannot be read or holds too little
    ├── CheckpointError    an SAE that cannot be read, or not be written as asked
    ├── ArtifactError      a file that cannot be written or does not match its hash
    ├── AuditError         a set of texts that cannot be audited as asked
    ├── InterventionError  a change of features or directions that makes no sense
    ├── MonitorError       a monitor that cannot be made, read or run
    │   └── TooLittleText  a false-positive rate that the calibration texts are too few for
    └── TrainingDiverged   a loss that is not finite

Each message is one line: what is wrong, and what to do. The command line prints it and exits with 1.
"""


class SAEError(Exception):
    """Base of all errors that `sae_core` raises on purpose."""


class ModelError(SAEError):
    """A model, tokenizer or hook point cannot be used."""


class BackendError(ModelError):
    """The back end that runs the model cannot do this; another one can."""


class CorpusError(SAEError):
    """A corpus cannot be read, or holds too little text."""


class CheckpointError(SAEError):
    """An SAE cannot be read, or not be written in the format asked for."""


class ArtifactError(SAEError):
    """A file cannot be written (disk full), or does not match its hash."""


class InterventionError(SAEError):
    """An intervention is impossible, or contradicts another."""


class MonitorError(SAEError):
    """A monitor cannot be made, read or run."""


class TooLittleText(MonitorError):
    """The benign texts are too few to support the false-positive rate asked for."""


class AuditError(SAEError):
    """A set of texts cannot be audited as asked."""


class TrainingDiverged(SAEError):
    """The training loss is NaN or infinite; the last good checkpoint is kept."""


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's message, without its final period, to quote it in another message."""
    return str(error).strip().partition("\n")[0].rstrip(".")
