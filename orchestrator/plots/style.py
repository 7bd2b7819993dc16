"""Style, ticks and files of all pictures: without pyplot, the same bytes for the same numbers."""

__all__ = [
    "CHAR_IN",
    "both_signs_ticks",
    "log_ticks",
    "new_figure",
    "plain_log",
    "save",
    "style",
    "texts_of_ticks",
    "thin_ticks",
    "title_of",
    "wrapped",
]

import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import matplotlib
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from workers.errors import QueryError

MOST_TICKS = 8
"""Most ticks of an axis."""
FEWEST_TICKS = 3
_LEAST_PLAIN, _MOST_PLAIN = 1e-4, 1e6
"""Numbers between these are written without an exponent."""
_EXACT = 1e-10
"""Of a tick, that it may be off."""
_SUBDIVISIONS: tuple[tuple[int, ...], ...] = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9))
"""Parts of each decade that have a tick, from the coarsest."""


def log_ticks(low: float, high: float) -> list[float]:
    """The ticks between two positive ends: whole decades as far as these are enough, else parts of them, and
    round numbers where not even these are."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in _SUBDIVISIONS:
        found = [part * 10.0**decade for decade in decades for part in parts]
        found = [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(found) >= FEWEST_TICKS:
            return found[:: math.ceil(len(found) / MOST_TICKS)]
    ticks = MaxNLocator(nbins=5).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high] or [low, high]


def both_signs_ticks(linear: float, high: float) -> list[float]:
    """The ticks from -`high` to `high` on a scale that is linear up to `linear`."""
    above = log_ticks(linear, high)
    above = above[:: -max(1, math.ceil(len(above) / (MOST_TICKS // 2)))][::-1]
    return [*(-tick for tick in reversed(above)), 0.0, *above]


def texts_of_ticks(ticks: Sequence[float]) -> list[str]:
    """Ticks in as few digits as say exactly where they are."""
    return [_text(tick) for tick in ticks]


def _text(tick: float) -> str:
    found = next(text for digits in range(1, 18) if _is_near(float(text := f"{tick:.{digits}g}"), tick))
    plain = f"{float(found):.12g}"
    return plain if _LEAST_PLAIN <= abs(tick) < _MOST_PLAIN else found


def _is_near(value: float, tick: float) -> bool:
    return abs(value - tick) <= abs(tick) * _EXACT


FONT_SIZE = 8.0
CHAR_IN = 0.06
"""About how wide a character of the font is, in inches."""


@contextmanager
def style() -> Iterator[None]:
    """The settings under which a picture is made and written."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A token in a script that the font lacks is shown as boxes; the picture is fine otherwise.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Whatever a user's matplotlibrc says: the same numbers give the same picture.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.size": FONT_SIZE,
                "axes.titlesize": FONT_SIZE + 1,
                "axes.labelsize": FONT_SIZE,
                "xtick.labelsize": FONT_SIZE - 1,
                "ytick.labelsize": FONT_SIZE - 1,
                "figure.titlesize": FONT_SIZE + 3,
                "axes.linewidth": 0.6,
                "hatch.linewidth": 0.5,
                "savefig.dpi": 200,
                "svg.fonttype": "path",
                "svg.hashsalt": "swapyard",
                # A token or a title may hold a dollar sign.
                "text.parse_math": False,
            }
        )
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that lays itself out."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def title_of(figure: Figure, title: str | None, note: str, over: str = "") -> None:
    """Set the picture's title, below it what its values run `over`, and a small note at its foot."""
    lines = [wrapped(text, figure.get_figwidth() * 0.75) for text in (title, over) if text]
    if lines:
        figure.suptitle("\n".join(lines))
    figure.supxlabel(note, fontsize=FONT_SIZE - 1.5, color="0.35", x=0.99, ha="right")


def wrapped(text: str, width_in: float) -> str:
    """`text` in lines about as wide."""
    return "\n".join(textwrap.wrap(text, max(12, int(width_in / CHAR_IN))))


def thin_ticks(num: int, most: int) -> range:
    """The places of `num` that get a label, evenly spaced, where at most `most` can be read."""
    return range(0, num, max(1, -(-num // most)))


def plain_log(axis: Axis, ticks: Sequence[float]) -> None:
    """Label a logarithmic axis at some places in plain numbers: mathematical text is switched off."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter(texts_of_ticks(ticks)))
    axis.set_minor_locator(NullLocator())


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``STEM.png`` and ``STEM.svg``, making the folder where there is none.

    Raises:
        QueryError: they cannot be written; pictures that were there are as they were.
    """
    metadata = {"png": {"Software": None}, "svg": {"Date": None}}
    paths = {suffix: stem.with_name(f"{stem.name}.{suffix}") for suffix in metadata}
    for suffix, path in paths.items():
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(
                partial, format=suffix, metadata=metadata[suffix], bbox_inches="tight", pad_inches=0.08
            )
            partial.replace(path)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise QueryError(
                f"{path} cannot be written ({reason}); name another place with -o STEM"
            ) from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
    return list(paths.values())
