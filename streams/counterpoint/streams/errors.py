"""What can go wrong, as one tree.

    CounterpointError            exit code
    ├── UsageError               2   wrong usage or configuration
    ├── UnavailableError         3   something asked for is not to be had on this machine
    └── FailedError              1   failed while running
        └── SourceError          1   a source cannot be read (any further)

Messages are one line: what, where, and what to do. They live in the lowest layer so that every
layer can raise them; the command line turns them into exit codes.
"""

from __future__ import annotations


class CounterpointError(Exception):
    """Base of all errors that a person is meant to read."""

    exit_code = 1


class UsageError(CounterpointError):
    """Wrong usage or configuration: an unknown key, a file that is not there."""

    exit_code = 2


class UnavailableError(CounterpointError):
    """Something asked for is not to be had on this machine: device, GPU, Redis, a port."""

    exit_code = 3


class FailedError(CounterpointError):
    """Failed while running."""

    exit_code = 1


class SourceError(FailedError):
    """A source cannot be read, or not any further."""
