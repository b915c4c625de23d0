"""Small files of the state directory: readable by their owner alone, written whole or not at all."""

import os
import secrets
from pathlib import Path


def private_directory(path: Path) -> Path:
    """`path`, existing and closed to everybody else."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Write with mode 0600 from the first byte, and replace atomically: no reader sees half a secret."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
