"""What can go wrong on a target, each with a stable code and a sentence that says what to do."""

import errno

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class CannotStart(Exception):
    """The agent cannot run as it was started; its text is for the person at the terminal (exit code 2)."""


class TaskFailure(Exception):
    """An instruction could not be carried out."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _NO_SPACE


def disk_full(doing: str) -> TaskFailure:
    return TaskFailure(
        "disk_full",
        f"The disk of the target is full ({doing}). Nothing was changed; free space in the agent's "
        "state directory or lower its cache limit, then try again.",
    )


def failure_from(error: Exception, doing: str) -> TaskFailure:
    """The failure to report for any exception. The text of an unforeseen one stays in the agent's own log."""
    if isinstance(error, TaskFailure):
        return error
    if is_disk_full(error):
        return disk_full(doing)
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return TaskFailure(
            "internal", f"The agent failed while {doing}: {reason}. Look into its log, then try again."
        )
    return TaskFailure(
        "internal", f"The agent failed while {doing} ({type(error).__name__}). Look into its log."
    )
