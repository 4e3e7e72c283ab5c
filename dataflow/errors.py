"""Errors a user can act on: what is wrong, and what to do about it."""

NO_ROOM = "make room or choose another --out, and run it again"
"""What to do where a disk is full."""


class ShardboxError(ValueError):
    """Something the user can mend. The message names the place and the value; `remedy` says what to do."""

    exit_status = 2

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}"


class UsageError(ShardboxError):
    """The command was given something it cannot work with (exit status 2)."""


class DataRefusedError(ShardboxError):
    """The data was looked at and refused, or a gate failed (exit status 1)."""

    exit_status = 1


class MissingExtraError(ShardboxError):
    """A package of an optional extra is not installed (exit status 2)."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"the package {package!r} is not installed", f"run: pip install 'shardbox[{extra}]'")

    def __reduce__(self) -> tuple[type[ShardboxError], tuple[str, str]]:
        return ShardboxError, (self.message, self.remedy)
