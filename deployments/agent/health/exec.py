"""A command in the release's directory and environment; exit code 0 passes."""

import subprocess

from deployments.agent import children
from deployments.agent.errors import TaskFailure
from deployments.agent.health.base import CheckFailed, Subject


async def check(subject: Subject) -> None:
    command = subject.spec.command
    if not command:
        raise CheckFailed("the health check has no command")
    try:
        child = children.spawn(command, cwd=subject.cwd, env=subject.env, output=subprocess.DEVNULL)
    except TaskFailure as failure:
        raise CheckFailed(failure.message) from None
    try:
        ended = await child.wait()
    finally:
        child.kill()
    if ended.code != 0:
        raise CheckFailed(f"the health command '{command[0]}' {ended}")
