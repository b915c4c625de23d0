"""The agent as one file: `slipway-agent.pyz`, to be run by any Python of the version it was built with.

Extension modules cannot be imported from inside a zip, so the file's `__main__` unpacks itself once into a
private cache directory named by its own digest, and runs from there. The same input gives the same bytes.
"""

import argparse
import importlib.metadata
import stat
import sys
import sysconfig
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import deployments
from deployments.agent.errors import CannotStart

DISTRIBUTIONS = ("websockets", "msgspec", "pynacl", "cffi", "pycparser")
_TIMESTAMP = (2020, 1, 1, 0, 0, 0)
_SKIPPED = {".pyc", ".pyi", ".typed"}

_MAIN = '''\
"""Unpack this file once into a private cache and run the agent from there."""

import hashlib
import os
import shutil
import stat
import sys
import tempfile
import zipfile

PYTHON = {python!r}
PLATFORM = {platform!r}


def cache():
    base = os.environ.get("SLIPWAY_AGENT_CACHE") or os.environ.get("XDG_CACHE_HOME")
    if not base:
        home = os.path.expanduser("~")
        base = os.path.join(home, ".cache") if os.access(home, os.W_OK) else ""
    if not base:
        base = os.path.join(tempfile.gettempdir(), "slipway-agent-%d" % os.getuid())
    directory = os.path.join(base, "slipway-agent")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        sys.exit("slipway-agent: %s must be a directory that only you can write to" % directory)
    return directory


def main():
    if "%d.%d" % sys.version_info[:2] != PYTHON:
        sys.exit("slipway-agent: this file was built for Python %s on %s" % (PYTHON, PLATFORM))
    archive = os.path.abspath(sys.argv[0])
    with open(archive, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    directory = cache()
    target = os.path.join(directory, digest)
    if not os.path.isdir(target):
        temporary = tempfile.mkdtemp(prefix=".", dir=directory)
        try:
            with zipfile.ZipFile(archive) as content:
                content.extractall(temporary)
            os.rename(temporary, target)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if not os.path.isdir(target):  # nobody else was faster
                sys.exit("slipway-agent: cannot unpack into %s: %s" % (directory, error.strerror))
    sys.path[0] = target
    from deployments.agent.main import main

    sys.exit(main())


main()
'''


def build(destination: Path) -> Path:
    """Write the bundle to `destination` (a file, or a directory for `slipway-agent.pyz`) and return its path.

    Raises CannotStart when one of the agent's distributions is not installed.
    """
    if destination.is_dir():
        destination = destination / "slipway-agent.pyz"
    content = dict(_package())
    for name in DISTRIBUTIONS:
        content.update(_distribution(name))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    content["__main__.py"] = _MAIN.format(python=version, platform=sysconfig.get_platform()).encode()
    temporary = destination.with_name(f".{destination.name}.new")
    with temporary.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name in sorted(content):
                info = zipfile.ZipInfo(name, _TIMESTAMP)
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, content[name])
    temporary.chmod(0o755)
    return temporary.replace(destination)


def _package() -> Iterator[tuple[str, bytes]]:
    """The agent, the protocol, and the empty package that holds both."""
    root = Path(deployments.__path__[0])
    sources = [root / "__init__.py", root / "protocol.py", *(root / "agent").rglob("*.py")]
    for path in sources:
        yield f"deployments/{path.relative_to(root).as_posix()}", path.read_bytes()


def _distribution(name: str) -> Iterator[tuple[str, bytes]]:
    """Modules, extension modules and licences of an installed distribution."""
    try:
        files = importlib.metadata.files(name)
    except importlib.metadata.PackageNotFoundError:
        files = None
    if not files:
        raise CannotStart(f"The distribution {name} is not installed; the bundle cannot be built.")
    for file in files:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or "__pycache__" in path.parts:
            continue
        info = path.parts[0].endswith(".dist-info")
        if info and "licen" not in path.as_posix().lower() and path.name != "METADATA":
            continue
        if path.suffix in _SKIPPED:
            continue
        yield path.as_posix(), Path(str(file.locate())).read_bytes()


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m deployments.agent.bundle FILE`."""
    parser = argparse.ArgumentParser(prog="slipway-agent-bundle", description="Build slipway-agent.pyz.")
    parser.add_argument("destination", type=Path, help="a file, or a directory to put slipway-agent.pyz into")
    try:
        built = build(parser.parse_args(argv).destination)
    except (CannotStart, OSError) as error:
        sys.stderr.write(f"slipway-agent-bundle: {error}\n")
        return 2
    sys.stdout.write(f"{built} ({built.stat().st_size} bytes)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
