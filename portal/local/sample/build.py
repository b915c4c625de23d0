"""Packs the sample service into artifacts 1.0 to 1.3: the same bytes for the same input, everywhere.

Version 1.2 is broken on purpose, in the way such things break: somebody exported the price table with
decimal commas. 1.3 has the repaired table.
"""

import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("orders.py")

PRICES = {
    "1.0": "coffee,3.20\ntea,2.80\n",
    "1.1": "coffee,3.30\ntea,2.90\ncake,4.80\n",
    "1.2": "coffee,3.30\ntea,2.90\ncake,4,80\n",
    "1.3": "coffee,3.30\ntea,2.90\ncake,4.80\njuice,3.90\n",
}


@dataclass(frozen=True)
class SampleArtifact:
    version: str
    data: bytes

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def filename(self) -> str:
        return f"orders-{self.version}.tar.gz"


def build(version: str) -> SampleArtifact:
    """The artifact of one version. Raises KeyError for a version that was never released."""
    files = {
        "VERSION": f"{version}\n".encode(),
        "orders.py": SOURCE.read_bytes(),
        "prices.csv": PRICES[version].encode(),
    }
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in sorted(files.items()):
            # TarInfo's defaults (owner 0, time 0) are what keeps this reproducible.
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return SampleArtifact(version, gzip.compress(plain.getvalue(), mtime=0))


def build_all() -> list[SampleArtifact]:
    """Every version, oldest first."""
    return [build(version) for version in PRICES]
