"""Progress of a run: a live display on a terminal, a line every so often elsewhere. All on stderr."""

__all__ = ["Progress"]

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from orchestrator.plan.pair_remarks import of_table, remarks
from orchestrator.plan.remaining import Counts
from orchestrator.plan.screening import describe_screening
from orchestrator.plan.tables import Plan
from orchestrator.run.device_setup import Setup
from orchestrator.run.left import left_text
from orchestrator.text_tables import plain
from workers.errors import counted
from workers.model.capability import Capability

LINE_EVERY_S = 15.0


class Progress:
    """Tells what a run does. Quiet unless used as a context."""

    def __init__(self, *, quiet: bool = False) -> None:
        """With `quiet` nothing is shown: for use from Python."""
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._note: Callable[[str], None] | None = None
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._began = 0.0
        self._at_begin = 0
        self._last_line = 0.0
        self._doing = ""
        self._told: set[str] = set()
        """Lines of reports that were told already, and warnings to be told again at the end."""
        self._warnings: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_bar()
        for line in self._warnings:
            self._shout(line)

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def also(self, note: Callable[[str], None]) -> None:
        """From now on, every line that is said is noted there, too."""
        self._note = note

    def say(self, line: str) -> None:
        """One line."""
        if self._note is not None:
            self._note(line)
        # A run does not end because nobody can read of it any more.
        with suppress(OSError):
            self._console.print(plain(line), markup=False, emoji=False, soft_wrap=True)

    def end(self, line: str) -> None:
        """The last line, in the place of the bar; the run's log has its own."""
        self._stop_bar()
        self._note = None
        self.say(line)

    def warn(self, line: str) -> None:
        """One line that cannot be overlooked: it is framed, and told again when the run ends."""
        self._warnings.append(line)
        if self._note is not None:
            self._note(line)
        self._shout(line)

    def capability(self, name: str, found: Capability) -> None:
        """Tell what a worker found that the model called `name` can do there; what others found before is not
        told again."""
        for line in found.lines(name):
            if line in self._told:
                continue
            self._told.add(line)
            if line.startswith("WARNING"):
                self.warn(line)
            else:
                self.say(line)

    def _shout(self, line: str) -> None:
        with suppress(OSError):
            text = Text(plain(line), style="bold")
            framed = Panel(text, style="bold red") if self._console.is_terminal else text
            self._console.print(framed, soft_wrap=not self._console.is_terminal)

    def planned(self, plan: Plan) -> None:
        """A new plan: how many pairs were kept, what became of the others, how many jobs there are."""
        for line in describe(plan):
            self.say(line)

    def begin(self, counts: Counts, setup: Setup) -> None:
        """Work begins."""
        self.say(f"running {setup.where} ({setup.why})")
        self._began = self._last_line = time.monotonic()
        self._at_begin, total, what = counts.now
        if self._at_begin:
            self.say(f"going on after {self._at_begin:,} of {total:,} {what}")
        self._stop_bar()
        if self._console.is_terminal:
            self._bar = Bar(
                BarColumn(None),
                MofNCompleteColumn(),
                TextColumn(what + " · {task.fields[detail]}", markup=False),
                _Left(),
                console=self._console,
                transient=True,
                # What others print is not for this display: see where the command redirects it.
                redirect_stdout=False,
            )
            self._bar.start()
            self._task = self._bar.add_task(what, total=total, completed=self._at_begin, detail="", doing="")

    def doing(self, text: str) -> None:
        """Show what goes on besides jobs, such as a model that is loaded; empty for nothing."""
        self._doing = text
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, doing=plain(text))
            if text:
                self._bar.update(self._task, detail=plain(text))

    def trained(self, num_over: int, num: int, left_s: float | None) -> None:
        """Show that so many of the trainings are over, and how long all of the run still takes."""
        now = time.monotonic()
        self._last_line = self._last_line or now
        if now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self.say(f"{num_over:,} of {num:,} trainings are over · {left_text(left_s)}")

    def update(self, counts: Counts, left_s: float | None = None) -> None:
        """Show that so many are done, and that the rest takes so many seconds, or nobody knows yet."""
        now = time.monotonic()
        done, total, what = counts.now
        rate = (done - self._at_begin) / max(now - self._began, 1e-9)
        failed = f" · {counts.num_failed:,} failed" if counts.num_failed else ""
        text = f"{rate:,.0f} {what}/s{failed}"
        if self._bar is not None and self._task is not None:
            detail = plain(self._doing) or text
            self._bar.update(self._task, completed=done, detail=detail, left_s=left_s, at=now)
        elif now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            doing = f" · {self._doing}" if self._doing else ""
            self.say(f"{done:,} of {total:,} {what}{doing} · {text} · {left_text(left_s)}")


class _Left(ProgressColumn):
    """The time that is left, counted down between the driver's looks."""

    def render(self, task: Task) -> Text:
        """As `ProgressColumn.render`."""
        left_s = task.fields.get("left_s")
        if left_s is None:
            # What is said of a fit has its own time.
            return Text("" if task.fields["doing"] else f"· {left_text(None)}")
        return Text(f"· {left_text(max(0.0, left_s - (time.monotonic() - task.fields['at'])))}")


def describe(plan: Plan) -> list[str]:
    """A plan in a few lines: prompts and pairs, cells, jobs."""
    inputs = plan.tables["inputs"]
    num_kept = sum(inputs["kept"].to_pylist())
    lines = []
    for data, fates in zip(plan.head["lanes"], plan.head["prompts"], strict=True):
        total = sum(fates.values())
        told = ", ".join(f"{count:,} {fate}" for fate, count in fates.items())
        lines.append(f"{_model(data)}: {counted(total, 'base prompt')}: {told}")
    verb = "is" if num_kept == 1 else "are"
    lines.append(f"{counted(num_kept, 'pair')} of {inputs.num_rows:,} {verb} in the study")
    lines += [f"left out: {one.text}" for one in of_table(inputs)]
    if "trainings" in plan.tables:
        names = plan.tables["trainings"]["name"].to_pylist()
        lines += [f"{counted(num, 'training')}: {name}" for name, num in Counter(names).items()]
    num_cells = plan.tables["cells"].num_rows
    screened = describe_screening(plan) if "screening" in plan.tables else None
    lines.append(f"{counted(num_cells, 'cell')}, {screened or counted(plan.num_jobs, 'job')}")
    return [*lines, *remarks(plan), *(f"note: {note}" for note in plan.head.get("notes", ()))]


def _model(lane: Mapping[str, Any]) -> str:
    """A lane's model; of one that is trained which of those of its name."""
    spec = lane["spec"]
    axes = spec["options"] if lane.get("training") else {}
    return f"{spec['ref']} ({', '.join([*(f'{key} {value}' for key, value in axes.items()), spec['dtype']])})"
