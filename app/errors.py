"""Errors of the app that a user can fix, each with its HTTP status.

    UserError (400)
    ├── SignInNeeded (401)
    ├── Forbidden (403)
    ├── NotFound (404)
    │   └── NoSuchModel
    ├── Conflict (409)       another change came first
    ├── NoWeights (409)      the SAE was imported as statistics only
    ├── TooLarge (413)
    ├── Unprocessable (422)
    │   └── BadParameter
    ├── TooMany (429)        too many attempts or changes in a short time
    └── Unavailable (503)    a process is down and may be back soon
        ├── Busy             too many requests are waiting
        ├── ClientGone       nobody reads the answer any more
        └── Loading          a model is being loaded, or a process started

The message is one line: what is wrong, and what to do. `app.web.errors` shows it as a page, a fragment or
`application/problem+json`; the command line prints it and exits with 1. It names a parameter of a run as `hook_out`: a
page shows “hook out”, the command line --hook-out.
"""

import math


class UserError(Exception):
    """A request that cannot be fulfilled as it is."""

    status = 400
    title = "This request cannot be answered"


class SignInNeeded(UserError):
    """Nobody is signed in, or what should prove it is not valid."""

    status = 401
    title = "Sign in first"


class Forbidden(UserError):
    """This site does not do that, or not for this person; the message says what decides it."""

    status = 403
    title = "Not allowed here"


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


class BadParameter(Unprocessable):
    """A parameter of a request in OpenAI's format.

    Args:
        param: its name, such as `messages.0.content`.
        code: the kind of error, as programs know it, such as `context_length_exceeded`.
    """

    def __init__(self, message: str, param: str | None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class NoSuchModel(NotFound):
    """A request in OpenAI's format names a model that is not here."""

    param, code = "model", "model_not_found"


class TooMany(UserError):
    """Too many attempts or changes in a short time.

    Args:
        what: of which there were too many, such as "attempts to sign in".
        wait: seconds after which another one is taken.
    """

    status = 429
    title = "Too many at once"

    def __init__(self, what: str, wait: float) -> None:
        self.retry_after = max(1, math.ceil(wait))
        super().__init__(f"Too many {what}. Try again in {self.retry_after} s.")


class Unavailable(UserError):
    """A process that this needs is down; a later attempt may succeed."""

    status = 503
    title = "Not available right now"
    retry_after = 5
    """Seconds after which another attempt makes sense: `Retry-After` of the answer."""


class Busy(Unavailable):
    """Too many requests are waiting already."""

    title = "Busy right now"

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many requests are waiting for their turn. Try again in {retry_after} s.")
        self.retry_after = retry_after


class ClientGone(Unavailable):
    """The client closed its connection before its turn came; nobody reads this."""

    def __init__(self) -> None:
        super().__init__("The client has gone.")


class Loading(Unavailable):
    """A model is being loaded, or a process started.

    Args:
        what: begins the message, such as "The model smollm2-135m is being loaded".
        elapsed: seconds since this began.
        expected: seconds that it took the last time; None if that is not known.
    """

    title = "Loading the model"

    def __init__(self, what: str, elapsed: float, expected: float | None) -> None:
        left = 5.0 if expected is None else min(expected - elapsed, 60.0)
        self.what, self.elapsed, self.expected = what, elapsed, expected
        self.retry_after = max(1, math.ceil(left))
        last = "" if expected is None else f", {max(1, round(expected))} s the last time"
        self.progress = f"{what}: {elapsed:.0f} s so far{last}."
        super().__init__(f"{self.progress} Try again in {self.retry_after} s.")
