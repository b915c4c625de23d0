"""An artifact like those that are deployed: hundreds of source files, and some large files beside them."""

import gzip
import io
import random
import sysconfig
import tarfile
from pathlib import Path

SIZE_BYTES = 4_500_000
LARGE_BYTES = 400_000
SOURCE_FILES = 700


def build(path: Path, version: str, size_bytes: int = SIZE_BYTES) -> Path:
    """Write a tar.gz of about `size_bytes` and return its path.

    Real Python sources, from this interpreter's own library, are about half of the compressed bytes and four
    fifths of the unpacked ones; the rest cannot be compressed, as images and binaries cannot.
    `VERSION` holds the version, so that two versions differ in their digest too.
    """
    library = Path(sysconfig.get_path("stdlib"))
    sources = sorted(file for folder in ("", "*/", "*/*/") for file in library.glob(f"{folder}*.py")
                     if "site-packages" not in file.parts and "test" not in file.parts)  # fmt: skip
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "VERSION", f"{version}\n".encode())
        for source in sources[: SOURCE_FILES * size_bytes // SIZE_BYTES]:
            _add(archive, f"app/{source.relative_to(library)}", source.read_bytes())
        missing = size_bytes - len(gzip.compress(plain.getvalue(), 6))
        noise = random.Random(version)
        for number, start in enumerate(range(0, missing, LARGE_BYTES)):
            _add(archive, f"static/{number}.bin", noise.randbytes(min(LARGE_BYTES, missing - start)))
    path.write_bytes(gzip.compress(plain.getvalue(), 6, mtime=0))
    return path


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    archive.addfile(member, io.BytesIO(data))
