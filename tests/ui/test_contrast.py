"""The contrast of the design tokens, computed as WCAG 2.2 defines it (relative luminance, 1.4.3)."""

import re
from pathlib import Path

import pytest

TOKENS = Path(__file__).parents[2] / "static/css/tokens.css"
PAIRS = [
    *(
        (text, ground)
        for text in ("text", "muted", "link")
        for ground in ("canvas", "surface", "sunken", "hover")
    ),
    ("on-primary", "primary"),
    *((f"{state}-fg", f"{state}-bg") for state in ("ok", "run", "warn", "bad", "back", "idle")),
    *((f"{state}-fg", "surface") for state in ("ok", "run", "warn", "bad", "back", "idle")),
    *(("muted", f"{state}-bg") for state in ("ok", "run", "warn", "bad", "back", "idle")),
]


def colours() -> dict[str, tuple[str, str]]:
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", TOKENS.read_text())
    return {name: (light, dark) for name, light, dark in found}


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_formula_gives_what_the_standard_gives() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(("text", "ground"), PAIRS)
@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_its_ground(text: str, ground: str, theme: int) -> None:
    known = colours()
    assert contrast(known[text][theme], known[ground][theme]) >= 4.5
