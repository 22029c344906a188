"""The colours of light and dark, shared by plots and pages, so that a figure sits on its page as if it were text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb. `series` are told apart by people who do not see red and green as different."""

    paper: str
    ink: str  # text
    faint: str  # secondary text
    line: str  # rules and grid
    shade: str  # behind code and table heads
    accent: str
    series: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1c2128",
    faint="#5f6975",
    line="#dde2e8",
    shade="#f5f7f9",
    accent="#0b62c4",
    series=("#0b62c4", "#c2570c", "#117a65", "#8e44ad", "#6b7480", "#b0305c"),
)
DARK = Theme(
    paper="#14171c",
    ink="#e4e8ee",
    faint="#9aa4b1",
    line="#323944",
    shade="#1d2229",
    accent="#6cb2ff",
    series=("#6cb2ff", "#f5a15b", "#5ed1b3", "#cf9cf0", "#a5afbc", "#f08bb0"),
)
