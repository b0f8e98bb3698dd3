"""The one exception family: every error carries what happened, what to type next, and the exit code."""

from __future__ import annotations


class VadError(Exception):
    """An error that a user can act on.

    Args:
        message: what happened, with the offending value and where it stands.
        hint: what to type next, or an empty string.
        exit_code: the process exit code; the class's own unless given.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(VadError):
    """A wrong argument, option, configuration or manifest (exit 2)."""

    exit_code = 2


class PartialFailure(VadError):
    """The work is finished, but some videos failed; they are listed (exit 3)."""

    exit_code = 3


class MissingArtifactError(VadError):
    """A needed artefact or file is missing; the hint has the command that makes it (exit 4)."""

    exit_code = 4


class VerificationError(VadError):
    """Data that fails a check: coverage, length, NaN, checksum (exit 5)."""

    exit_code = 5


class Stopped(VadError):
    """Stopped by a signal with everything saved; the same command goes on (exit 75)."""

    exit_code = 75
