"""`python -m portal.local.components`: what the tests use beside Python packages.

Root on Debian gets what is missing installed; everybody else is told its name, and the tests that need it
are skipped visibly (or fail, with CI=true).
"""

import os
import shutil
import subprocess
import sys

# Command that shows it is there, and the Debian packages that bring it.
COMPONENTS = {
    "chromium": ("chromium", "fonts-dejavu-core"),
}


def missing() -> dict[str, tuple[str, ...]]:
    """Components that are not installed, and the Debian packages that would bring them."""
    return {command: packages for command, packages in COMPONENTS.items() if not shutil.which(command)}


def main() -> int:
    wanted = missing()
    if not wanted:
        return 0
    packages = sorted({package for names in wanted.values() for package in names})
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(f"Not installed: {', '.join(wanted)}. On Debian: apt-get install {' '.join(packages)}")
        return 0
    print(f"Installing {', '.join(packages)} ...", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", "-qq", *command], env=environment, check=False)  # noqa: S607
        if done.returncode != 0:
            print(f"apt-get {command[0]} failed: the tests that need {', '.join(wanted)} are skipped")
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
