"""Tables for a terminal: plain text, so that they can be read, copied and piped."""

__all__ = ["cell_text", "plain", "table"]

from collections.abc import Sequence

MAX_WIDTH = 40


def table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns below their names, numbers to the right."""
    texts = [[cell_text(value) for value in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in texts), 0) for i, name in enumerate(names)]
    numeric = [
        all(isinstance(row[i], int | float) or row[i] is None for row in rows) and bool(rows)
        for i in range(len(names))
    ]
    lines = [names, ["─" * width for width in widths], *texts]
    return "\n".join(_line(line, widths, numeric) for line in lines)


def cell_text(value: object) -> str:
    """One value on one line, cut where it is long; without anything that could steer a terminal."""
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = "".join(c if c.isprintable() else "�" for c in text)
    return text if len(text) <= MAX_WIDTH else text[: MAX_WIDTH - 1] + "…"


def plain(text: str) -> str:
    """`text` without what could move a terminal's cursor or change its colours; its lines stay."""
    return "".join(c for c in text if c == "\n" or c.isprintable())


def _line(texts: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = (
        text.rjust(width) if right else text.ljust(width)
        for text, width, right in zip(texts, widths, numeric, strict=True)
    )
    return "  ".join(padded).rstrip()
