"""How benchmarks tell what they found: on a terminal, and in ``docs/performance.md``.

With ``--write`` the part of that page between ``<!-- NAME -->`` and ``<!-- /NAME -->`` is replaced by the
tables, and the numbers and a picture are put beside it.
"""

import argparse
import json
import os
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from orchestrator.machine import memory_bytes, num_cores

DOCS = Path(__file__).parents[1] / "docs"
PAGE = "performance.md"


def arguments(about: str, *, rounds: int) -> argparse.ArgumentParser:
    """What every benchmark is asked with."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--rounds", type=int, help=f"how often everything is measured [default: {rounds}]")
    parser.add_argument("--quick", action="store_true", help="tiny models, one round: whether it works")
    parser.add_argument("--device", default="cpu", help="where models run: cpu, or cuda [default: cpu]")
    parser.add_argument(
        "--write", action="store_true", help=f"put tables, numbers and a plot into docs/{PAGE}"
    )
    parser.set_defaults(default_rounds=rounds)
    return parser


def num_rounds(options: argparse.Namespace) -> int:
    """As asked; one where it is to be quick."""
    return int(options.rounds or (1 if options.quick else options.default_rounds))


def hardware() -> dict[str, Any]:
    """What was measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu(),
        "cores": num_cores(),
        "memory_gib": round(memory_bytes() / 2**30),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "ray", "pyarrow", "duckdb")},
    }


def hardware_line() -> str:
    """The same in a sentence."""
    found = hardware()
    return (
        f"Measured on {found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB,"
        f" {found['gpu'] or 'no GPU'}, {found['system']}; torch {found['torch']},"
        f" transformers {found['transformers']}, Python {found['python']}."
    )


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", path.read_text("utf-8")) if path.exists() else []
    return names[0].strip() if names else platform.processor() or "an unnamed CPU"


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, and what lay around it."""
    middle = format(statistics.median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for terminals and Markdown: the first column is text, the others are numbers."""
    widths = [max(len(line[n]) for line in (header, *rows)) for n in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = f"{cells[0]:{widths[0]}}"
        rest = (f"{cell:>{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True))
        return f"| {' | '.join([first, *rest])} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def written(name: str) -> dict[str, Any]:
    """The numbers that stand beside the page, where they are of this hardware; none where there are none."""
    path = DOCS / "performance" / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found if found.get("hardware") == hardware() else {}


def write(name: str, numbers: Mapping[str, Any], text: str, draw: Callable[[Path], None]) -> None:
    """Put `text` into the page, and numbers and picture beside it."""
    folder = DOCS / "performance"
    folder.mkdir(exist_ok=True)
    found = {"hardware": hardware(), **numbers}
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    draw(folder / f"{name}.png")
    page = DOCS / PAGE
    picture = f"![{name}](performance/{name}.png)"
    page.write_text(
        replaced(page.read_text("utf-8"), name, f"{hardware_line()}\n\n{text}\n\n{picture}"), "utf-8"
    )


def replaced(page: str, name: str, text: str) -> str:
    """`page` with its part `name` replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"docs/{PAGE} has no part {begin} … {end}: put these two lines where it should be")
    head, _, rest = page.partition(begin)
    return f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def figure(width: float, height: float) -> Any:
    """An empty figure that is only ever saved."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=150)
