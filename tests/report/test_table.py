"""Tables for a terminal: aligned, and never read as markup."""

from fathom.report.table import plain, table


def test_columns_line_up_and_markup_is_text() -> None:
    shown = plain(table(["rung", "loss"], [["[bold]x[/]", "1.0"], ["many heads", "12.25"]], numbers=[1])).splitlines()
    assert shown[2] == "[bold]x[/]    1.0"
    assert shown[3] == "many heads  12.25"
    assert not any("\x1b" in line for line in shown)


def test_a_narrow_terminal_wraps_text_and_keeps_numbers() -> None:
    shown = plain(table(["what", "n"], [["word " * 12, "123456"]], numbers=[1]), width=30)
    assert "123456" in shown
    assert max(map(len, shown.splitlines())) <= 30
