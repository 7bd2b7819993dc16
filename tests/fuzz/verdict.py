"""What a fuzzed command must not do, and how often it did."""

__all__ = ["MOST_CPU_S", "MOST_MB", "Tally"]

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.sandbox import End
from tests.fuzz.study_files import Mutant

MOST_MB = 1024.0
MOST_CPU_S = 10.0
"""What a refusal may take."""
_PLACE = re.compile(r"study\.yaml:\d+|pairs\.\w+(:\d+|: (row|column|no pairs|\w))")
_SHAPE = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


@dataclass
class Tally:
    """What came of all files."""

    keep: Path | None = None
    """Where files with faults are kept."""
    num: int = 0
    planned: int = 0
    refused: int = 0
    run: int = 0
    placeless: Counter[str] = field(default_factory=Counter)
    """Refusals without a file and a line, by the shape of their message."""
    examples: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    peak_mb: float = 0.0
    cpu_s: float = 0.0

    def add(self, mutant: Mutant, end: End, new: list[str]) -> None:
        """One more file, and what is wrong with how its command ended."""
        self.num += 1
        faults = list(_faults(end, new))
        self.planned += end.code == 0
        if end.code in (1, 2):
            self.refused += 1
            self.peak_mb, self.cpu_s = max(self.peak_mb, end.peak_mb), max(self.cpu_s, end.cpu_s)
            if not _PLACE.search(end.said):
                shape = _SHAPE.sub("…", end.said.strip().splitlines()[-1])[:150] if end.said.strip() else ""
                self.placeless[shape] += 1
                self.examples.setdefault(shape, f"{mutant.what}: {end.said.strip()[-300:]}")
        self._note(mutant, end, faults)

    def add_run(self, mutant: Mutant, end: End) -> None:
        """A study that was planned, and was run and asked as well."""
        self.run += 1
        faults = [fault for fault in _faults(end, []) if not fault.startswith("took")]
        if end.code and not faults:
            faults = [f"planned, but: {end.said.strip()[-300:]}"]
        self._note(mutant, end, faults)

    def _note(self, mutant: Mutant, end: End, faults: list[str]) -> None:
        for fault in faults:
            self.faults.append(f"{fault} [{mutant.what}]")
            print(f"FAULT {self.faults[-1]}", flush=True)
        if self.keep is not None and faults:
            folder = self.keep / str(mutant.what.split()[0])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "said.txt").write_text(end.said, "utf-8")
            for name, data in mutant.files.items():
                (folder / name).write_bytes(data)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "num": self.num,
            "planned": self.planned,
            "refused": self.refused,
            "run": self.run,
            "placeless": sum(self.placeless.values()),
            "faults": self.faults,
            "peak_mb": round(self.peak_mb),
            "cpu_s": round(self.cpu_s, 1),
        }

    def lines(self) -> list[str]:
        """For people."""
        shapes = [
            f"{count:5} {shape}\n      {self.examples[shape]}"
            for shape, count in self.placeless.most_common(30)
        ]
        return [
            *shapes,
            f"{self.num:,} files: {self.planned:,} planned ({self.run:,} of them run as well),"
            f" {self.refused:,} refused, of them {sum(self.placeless.values()):,} without file and line;"
            f" {len(self.faults):,} faults; a refusal took up to {self.peak_mb:,.0f} MB, {self.cpu_s:.1f} s",
        ]


def _faults(end: End, new: list[str]) -> list[str]:
    found = [f"touched: {text}" for text in end.touched]
    if new:
        found.append(f"left {', '.join(new[:3])}")
    if "Traceback (most recent call last)" in end.said:
        found.append(f"traceback: {end.said.strip().splitlines()[-1][:200]}")
    elif end.code not in (0, 1, 2):
        found.append(f"exit code {end.code}: {end.said.strip()[-200:]}")
    elif end.code and not end.said.strip():
        found.append("refused without a word")
    if end.code and (end.peak_mb > MOST_MB or end.cpu_s > MOST_CPU_S):
        found.append(f"took {end.peak_mb:,.0f} MB and {end.cpu_s:.1f} s")
    return found
