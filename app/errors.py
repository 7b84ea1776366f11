"""Errors of the app that a user can fix, each with its HTTP status.

    UserError (400)
    ├── NotFound (404)
    ├── Conflict (409)       another change came first
    ├── NoWeights (409)      the SAE was imported as statistics only
    ├── TooLarge (413)
    ├── Unprocessable (422)
    └── Unavailable (503)    a process is down and may be back soon

The message is one line: what is wrong, and what to do. `app.web.errors` shows it as a page, a fragment or
`application/problem+json`; the command line prints it and exits with 1.
"""


class UserError(Exception):
    """A request that cannot be fulfilled as it is."""

    status = 400
    title = "This request cannot be answered"


class NotFound(UserError):
    """The SAE, feature, label, list or run does not exist."""

    status = 404
    title = "Not found"


class Conflict(UserError):
    """The resource changed since it was read."""

    status = 409
    title = "Changed in the meantime"


class NoWeights(UserError):
    """The SAE was imported as statistics only."""

    status = 409
    title = "No weights"

    def __init__(self, slug: str) -> None:
        super().__init__(
            f"{slug} was imported as statistics only: it has no weights to run text through. "
            "Import its weights as an SAE of their own to probe, index or evaluate it."
        )


class TooLarge(UserError):
    """The input is over its limit; the message states the limit."""

    status = 413
    title = "Too large"


class Unprocessable(UserError):
    """The input is well-formed, but a value is invalid."""

    status = 422
    title = "Not understood"


class Unavailable(UserError):
    """A process that this needs is down; a later attempt may succeed."""

    status = 503
    title = "Not available right now"
