"""Releases of one target, side by side, and the `current` link that is switched atomically.

`releases/<id>/` holds a link for each entry at the top of the artifact's tree, the release's own `config/`
and `release.json`, the specification it was made from. A service runs inside it, so that files of the
artifact and of its configuration are both reachable by relative paths.
"""

import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from deployments import protocol
from deployments.agent.errors import TaskFailure
from deployments.agent.inspection import content_of, digest_of, fingerprint_of, legible
from deployments.agent.state import digest_hex, prepare, remove_tree, safe_name, write_atomic

SPEC = "release.json"
CONFIG = "config"
MAX_CONFIG_FILES = 1000


class ReleaseFound(msgspec.Struct, frozen=True):
    """A release directory as it was found on the disk."""

    fingerprint: bytes
    changed: tuple[str, ...]
    """Paths of its own, configuration files and links, that are not what they should be."""
    files_digest: str
    """Over the configuration's files."""


class Releases:
    """The release directories of one target. Blocking; the caller holds the target's turn."""

    def __init__(self, home: Path, trees: Path, in_use: Counter[str]) -> None:
        self.home = home
        self._releases = home / "releases"
        self._trees = trees
        self._in_use = in_use
        self._digests: dict[str, str] = {}
        self._inspected: tuple[protocol.ReleaseSpec, ReleaseFound] | None = None

    def load(self) -> None:
        """Count what is there already; a half-made release of a killed agent is removed."""
        self._releases.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in self._releases.iterdir():
            spec = None if entry.name.startswith(".") else self.spec(entry.name)
            if spec is None:
                if entry.name != self.current():
                    remove_tree(entry)
                continue
            self._count(entry.name, digest_hex(spec.artifact.digest))
        for leftover in self.home.glob(".*"):
            remove_tree(leftover)

    def _count(self, release_id: str, hexdigest: str) -> None:
        before = self._digests.pop(release_id, None)
        if before is not None:
            self._in_use[before] -= 1
        if hexdigest:
            self._digests[release_id] = hexdigest
            self._in_use[hexdigest] += 1

    def directory(self, release_id: str) -> Path:
        return self._releases / release_id

    def current(self) -> str:
        """Id of the release that `current` points to; empty without one."""
        try:
            return (self.home / "current").readlink().name
        except OSError:
            return ""

    def linked(self) -> str:
        """Id of the release that `current` leads to, or wherever else it was made to lead by hand."""
        try:
            link = (self.home / "current").readlink()
        except OSError:
            return protocol.NO_LINK
        return legible(link.name if link == Path("releases") / link.name else str(link))

    def spec(self, release_id: str) -> protocol.ReleaseSpec | None:
        """What a release was staged from; None when it is not staged here."""
        try:
            data = (self.directory(release_id) / SPEC).read_bytes()
            return msgspec.json.decode(data, type=protocol.ReleaseSpec)
        except (OSError, ValueError):  # of JSON that is none, or no UTF-8
            return None

    def write(self, spec: protocol.ReleaseSpec, tree: Path) -> None:
        """Make the release directory, or put an existing one right; raises TaskFailure or OSError."""
        name = safe_name(spec.release_id, "release id")
        files = _config_files(spec)
        directory = self.directory(name)
        if directory.exists():
            _fill(directory, spec, files, tree)
        else:
            temporary = self._releases / f".{name}"
            remove_tree(temporary)
            try:
                temporary.mkdir(mode=0o755)
                _fill(temporary, spec, files, tree)
                temporary.rename(directory)
            except BaseException:
                remove_tree(temporary)
                raise
        self._count(name, tree.name)

    def working_directory(self, spec: protocol.ReleaseSpec) -> Path:
        """Where the service runs; raises TaskFailure when the release has no such directory."""
        root = self.directory(spec.release_id)
        relative = posixpath.normpath(spec.process.working_dir or ".")
        if relative.startswith(("/", "../")) or relative == "..":
            raise TaskFailure(
                "start_failed", "The working directory must lie inside the release; correct the service."
            )
        found = root / relative
        if not found.is_dir():
            raise TaskFailure(
                "start_failed",
                f"The release has no directory '{relative}' to work in; correct the service or the artifact.",
            )
        return found

    def prepare_switch(self, release_id: str) -> Path:
        """A link beside `current`, ready to take its place: what may fail has then happened."""
        current = self.home / "current"
        if current.is_dir() and not current.is_symlink():
            remove_tree(current)  # put there by hand; a link cannot take the place of a directory
        link = self.home / f".current.{release_id}"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("releases") / release_id)
        return link

    def switch(self, prepared: Path) -> None:
        prepared.replace(self.home / "current")

    def clear(self) -> None:
        (self.home / "current").unlink(missing_ok=True)

    def prune(self, keep: int, needed: set[str]) -> bool:
        """Remove all but the newest `keep` releases, never one in `needed`; whether any was removed."""
        if len(self._digests) <= keep:
            return False
        found = [entry for entry in self._releases.iterdir() if not entry.name.startswith(".")]
        found.sort(key=lambda entry: entry.lstat().st_mtime_ns, reverse=True)
        surplus = [entry for entry in found[max(keep, 1) :] if entry.name not in needed]
        for entry in surplus:
            remove_tree(entry)
            self._count(entry.name, "")
        return bool(surplus)

    def touch(self, release_id: str) -> None:
        """Count the release as used now, for `prune`."""
        os.utime(self.directory(release_id))

    def inspect(self, spec: protocol.ReleaseSpec, tree: Path) -> ReleaseFound:
        """What is on the disk of a release staged from `spec`; contents are read only after a change.

        What a service writes beside its files is its own business.
        """
        root = self.directory(spec.release_id)
        overlay = {f"{CONFIG}/{relative}" for relative in spec.files}
        try:
            layout = [path for path, is_link in _layout(tree, "", overlay) if is_link]
        except OSError:
            layout = []  # the tree is gone or has become something else, which its own inspection tells
        links = {path: tree / path for path in layout if posixpath.basename(path) != "__pycache__"}
        seen = fingerprint_of(root / path for path in [SPEC, *overlay, *links])
        if self._inspected is not None:
            known_spec, found = self._inspected
            if known_spec is spec and found.fingerprint == seen:
                return found
        contents = {path: content_of(root / path) for path in sorted(overlay)}
        wanted = {f"{CONFIG}/{path}": _sha256(text.encode()) for path, text in spec.files.items()}
        changed = [path for path, content in contents.items() if content != wanted[path]]
        changed += [legible(path) for path, to in links.items() if content_of(root / path) != f"-> {to}"]
        if self.spec(spec.release_id) != spec:
            changed.append(SPEC)
        found = ReleaseFound(seen, tuple(changed), digest_of(contents))
        self._inspected = spec, found
        return found


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _config_files(spec: protocol.ReleaseSpec) -> dict[str, bytes]:
    """Content by path below `config/`; raises TaskFailure for a path that leads elsewhere."""
    if len(spec.files) > MAX_CONFIG_FILES:
        raise TaskFailure("malformed", f"A release may have {MAX_CONFIG_FILES} configuration files at most.")
    for relative in spec.files:
        parts = relative.split("/")
        if not relative or "\0" in relative or any(part in ("", ".", "..") for part in parts):
            raise TaskFailure(
                "malformed",
                f"The configuration file name {relative[:200]!r} must be a plain relative path; correct the "
                "configuration.",
            )
    return {relative: content.encode() for relative, content in spec.files.items()}


def _fill(directory: Path, spec: protocol.ReleaseSpec, files: dict[str, bytes], tree: Path) -> None:
    overlay = {f"{CONFIG}/{relative}" for relative in files}
    try:
        _link(tree, directory, overlay)
        for relative, content in files.items():
            path = directory / CONFIG / relative
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if path.is_symlink() or not path.is_file() or path.read_bytes() != content:
                write_atomic(path, content, mode=0o644, durable=False)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise TaskFailure(
            "malformed",
            "A configuration file has the name of a directory, or the other way round; rename it.",
        ) from None
    # Last, since a release without it does not count as staged.
    data = msgspec.json.encode(spec)
    path = directory / SPEC
    if not path.exists() or path.read_bytes() != data:
        prepare(path, data).replace(path)


def _layout(tree: Path, below: str, overlay: set[str]) -> Iterator[tuple[str, bool]]:
    """What a release directory holds for `tree/below`: paths, and whether each is a link into the tree.

    A directory that the configuration adds to is made, and descended. Raises OSError where the
    configuration has a file for a directory, or the other way round.
    """
    for entry in os.scandir(tree / below):
        relative = f"{below}/{entry.name}" if below else entry.name
        if relative in overlay or relative == SPEC:
            continue
        if not any(name.startswith(f"{relative}/") for name in overlay):
            yield relative, True
        elif entry.is_dir(follow_symlinks=False):
            yield relative, False
            yield from _layout(tree, relative, overlay)
        else:
            raise FileExistsError


def _link(tree: Path, directory: Path, overlay: set[str]) -> None:
    """Make the links of `_layout`, or put them right."""
    for relative, is_link in _layout(tree, "", overlay):
        link = directory / relative
        if not is_link:
            link.mkdir(mode=0o755, exist_ok=True)
            continue
        if link.is_symlink() and str(link.readlink()) == str(tree / relative):
            continue
        remove_tree(link)
        link.symlink_to(tree / relative)
