"""Every variable and every check is documented, and nothing is documented that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "configuration.md").read_text()
ONLY_UP = {"SLIPWAY_PORT", "SLIPWAY_DEMO_PORT"}
FORMS = {"SLIPWAY_SECRET_KEY_FILE"}


def variables(text: str) -> set[str]:
    return set(re.findall(r"\b(?:SLIPWAY_[A-Z_]+|DATABASE_URL)\b", text)) - FORMS


def test_every_variable_is_documented_and_every_documented_one_is_read():
    read = set(re.findall(r'source\.\w+\(\s*"(\w+)"', (ROOT / "portal" / "env.py").read_text()))
    assert len(read) > 15
    assert variables(DOCUMENT) == read | ONLY_UP


def test_every_check_is_documented():
    there = set(re.findall(r"slipway\.[EW]\d{3}", (ROOT / "portal" / "checks.py").read_text()))
    assert set(re.findall(r"slipway\.[EW]\d{3}", DOCUMENT)) == there
