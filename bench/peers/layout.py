"""What every contender finds before the update and has to leave behind, and the steps in between.

For each target, in batches of ten per cent: unpack the artifact into a new release directory, write a
configuration file, switch the `current` link, end the old process and start the new one, and check health
by a command that reads the version through `current`. The new process only has to exist: `sleep infinity`.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BEFORE, AFTER = "1.0", "1.1"
SERVE = ("sleep", "infinity")


@dataclass(frozen=True)
class Job:
    """One rolling update: where the targets lie, and the archive that they are to get."""

    root: Path
    targets: int
    archive: Path
    parts: int = 10
    """Batches, one after the other."""

    @property
    def homes(self) -> list[Path]:
        return [self.root / f"t-{number:04}" for number in range(self.targets)]

    @property
    def batches(self) -> list[list[Path]]:
        homes = self.homes
        return [homes[start : start + self.size] for start in range(0, len(homes), self.size)]

    @property
    def size(self) -> int:
        """Targets in a batch."""
        return max(1, self.targets // self.parts)


def config(home: Path) -> str:
    """The configuration file of one target."""
    return json.dumps({"target": home.name, "version": AFTER, "log_level": "info", "workers": 4}) + "\n"


def prepare(job: Job) -> None:
    """Every target runs the old version: a small release, since nobody looks into it again."""
    for home in job.homes:
        release = home / "releases" / BEFORE
        release.mkdir(parents=True)
        (release / "VERSION").write_text(f"{BEFORE}\n")
        (home / "current").symlink_to(f"releases/{BEFORE}")
        child = subprocess.Popen(
            SERVE, cwd=release, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        child.returncode = 0  # whoever updates the target ends it by the file, and nobody waits for it here
        (home / "service.pid").write_text(f"{child.pid}\n")


def check(job: Job) -> None:
    """Raise AssertionError unless every target runs the new version, whole."""
    reference = _names(job.homes[0] / "current")
    for home in job.homes:
        assert str((home / "current").readlink()) == f"releases/{AFTER}", home
        assert (home / "current" / "VERSION").read_text() == f"{AFTER}\n", home
        assert (home / "current" / "config" / "app.json").read_text().strip() == config(home).strip(), home
        assert len(_names(home / "current")) == len(reference) > 2, home
        assert _comes_up(_pid(home)), home


def clean(job: Job) -> None:
    """End the processes that the contender started and remove everything."""
    for home in job.homes:
        if pid := _pid(home):
            with suppress(ProcessLookupError):
                if _runs(pid):
                    os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    shutil.rmtree(job.root)


def batch_script(home: Path) -> Sequence[str]:
    """The restart, as a shell does it: the same lines for every contender that runs a shell for it."""
    return (
        "sh",
        "-c",
        f"kill $(cat {home}/service.pid) 2>/dev/null; cd {home}/current && "
        f"setsid {' '.join(SERVE)} </dev/null >>{home}/service.log 2>&1 & echo $! >{home}/service.pid",
    )


def health(home: Path) -> Sequence[str]:
    return ("grep", "-qx", AFTER, f"{home}/current/VERSION")


def _names(release: Path) -> list[str]:
    return [name for _, _, files in os.walk(release, followlinks=True) for name in files]


def _pid(home: Path) -> int:
    with suppress(FileNotFoundError, ValueError):
        return int((home / "service.pid").read_text())
    return 0


def _comes_up(pid: int, seconds: float = 5) -> bool:
    """Whether it runs; a process that was forked a moment ago has yet to become what it runs."""
    deadline = time.monotonic() + seconds
    while not _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return _runs(pid)


def _runs(pid: int) -> bool:
    """Whether it is one of our processes: a pid from a file may have become somebody else's."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return b"sleep\0infinity" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
