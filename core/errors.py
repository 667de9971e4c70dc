"""Why a failure is recorded once or tried again: the two kinds of error that every task knows."""

from __future__ import annotations


class DedupError(Exception):
    """Base of all errors of listing-dedup. Its text names the thing and the remedy."""


class ConfigurationError(DedupError):
    """A setting, file or service is not as it must be; nothing was done."""


class PermanentError(DedupError):
    """Will fail again on every attempt: recorded with its reason, then acknowledged.

    `reason` is a short stable word for SQL (``corrupt``, ``too_large`` …), the text is for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TransientError(DedupError):
    """May work later (network, throttling, database away): retried with backoff, a bounded number of times."""
