"""One round: a study from its first commit to its last, through as many blows as it lives to take."""

__all__ = ["Round", "Tally"]

import contextlib
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow as pa

from tests.orchestrator.running import assert_same_rows
from tests.torture.blows import Blow
from tests.torture.damage import harm
from tests.torture.history import History, watching
from tests.torture.processes import end_all, members, role_of, wait_gone
from tests.torture.reader import harming, reading
from tests.torture.verdict import judge_study, leftovers
from tests.torture.world import Executor, Run, World

POLL_S = 0.05
STUCK_S = 240.0
"""A run without a new commit for so long is stuck."""
MOST_RESTARTS = 10
"""Runs that may end by themselves in one round before the round is given up."""
HELD = 5
"""The exit code of a driver that does not get a study, or lost it."""
LENGTHS_S = {"start": 1.5, "plan": 1.0, "load": 2.0, "work": 2.5, "end": 1.5}
"""How long a moment is taken to last."""
END = 0.85
"""The share of jobs that are done when the end begins."""
WORKERS_GONE_S = 30.0


@dataclass(slots=True)
class Tally:
    """What happened so far, over all rounds."""

    num_kills: int
    """To be done."""
    kills: int = 0
    landed: int = 0
    blows: Counter[str] = field(default_factory=Counter)
    """How many of each kind."""
    commits: Counter[str] = field(default_factory=Counter)
    """How many of each kind the studies made."""
    restarts: int = 0
    """Runs that ended by themselves, because of what a blow did to their Ray, and were started again."""
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        blows = f"{self.kills} kills, {self.landed} landed in work"
        return f"{blows}, {self.lost} rows lost, {self.doubled} doubled, {self.wrong} wrong"

    def complain(self, text: str) -> None:
        """Note that something is not as it must be."""
        self.problems.append(text)
        say(f"PROBLEM: {text}")


class Round:
    """One study in a folder of its own; `blows` is taken from its front, and what is left is for others."""

    def __init__(
        self,
        world: World,
        number: int,
        executor: Executor,
        expected: pa.Table,
        blows: list[Blow],
        tally: Tally,
    ) -> None:
        self._world = world
        self._number = number
        self._executor = executor
        self._expected = expected
        self._blows = blows
        self._tally = tally
        self._store = world.folder / f"round-{number}"
        self._folder = world.study_folder(self._store)
        self._history = History(self._folder)
        self._run: Run
        self._copies: list[str] = []
        """Names of copies of the study that were made while it ran."""
        self._hurt = False
        """Whether the Ray of the present run was hit, so that the run may end with an error."""

    def play(self) -> None:
        """Run the study until it is complete, blow after blow, and judge it."""
        problems: list[str] = []
        runs, study = self._folder.parent, self._folder.name
        with watching(self._folder) as self._history, reading(runs, study, problems):
            self._start()
            if self._until_complete():
                self._run_once_more()
            self._history.read_on()
        for problem in (*problems, *self._history.problems):
            self._complain(problem)
        self._judge()
        for name in self._copies:
            self._judge_copy(name)

    def _until_complete(self) -> bool:
        """Whether it came to its end."""
        restarts = 0
        while True:
            if self._blows and self._reach(self._blows[0]):
                self._strike(self._blows.pop(0))
                continue
            code = self._end_of(self._run)
            if code == 0:
                return True
            restarts += 1
            if self._hurt and code == 1:
                self._tally.restarts += 1
                say(f"the run whose Ray was hit ended: {self._run.last_line}")
            else:
                self._complain(f"a run ended with code {code}: {self._run.last_line}")
            if restarts > MOST_RESTARTS:
                self._complain("it does not come to an end")
                return False
            self._start()

    # When to strike.

    def _reach(self, blow: Blow) -> bool:
        """Wait until the blow's moment; False where the run ended before."""
        if not self._wait(lambda: self._has_begun(blow), self._run):
            return False
        then = time.monotonic() + LENGTHS_S[blow.moment] * blow.delay
        self._wait(lambda: time.monotonic() >= then, self._run)
        return self._lives() and (blow.kind not in ("worker", "ray") or bool(self._targets(blow)))

    def _has_begun(self, blow: Blow) -> bool:
        """Whether the moment of a blow has come for the present run."""
        match blow.moment:
            case "start":
                return True
            case "plan":
                return self._has_opened()
            case "load":
                return self._has_opened() and self._has_worker()
            case "work":
                return self._has_opened() and self._history.num_adds(self._history.epoch) > 0
            case "end":
                return self._share_done >= END

    @property
    def _share_done(self) -> float:
        """The share of jobs that are done."""
        return self._history.num_rows / int(self._expected.num_rows)

    def _has_opened(self) -> bool:
        """Whether the present run drives the study."""
        return self._history.epoch > self._epoch_before

    def _has_worker(self) -> bool:
        if self._executor == "inline":
            return bool(self._history.plans)
        return any(self._role(process) == "worker" for process in members({self._run.session}))

    def _lives(self) -> bool:
        return self._run.process.poll() is None

    # What to do then.

    def _strike(self, blow: Blow) -> None:
        stood = self._history.num_rows
        landed = stood < self._expected.num_rows and (stood > 0 or self._has_worker())
        if blow.is_kill:
            self._tally.kills += 1
            self._tally.landed += landed
        self._tally.blows[blow.kind] += 1
        targets = self._targets(blow)
        say(
            f"{'kill' if blow.is_kill else 'stop'} {self._tally.kills}/{self._tally.num_kills}, round"
            f" {self._number}, {self._executor}: {blow.kind} at its {blow.moment}"
            f" ({', '.join(str(p.pid) for p in targets[:3])}), {stood:,} of {self._expected.num_rows:,} jobs,"
            f" epoch {self._history.epoch}{', in work' if landed else ''}"
        )
        match blow.kind:
            case "damage":
                end_all({self._run.session})
                self._run.process.wait()
                self._damage(blow)
                self._go_on(blow)
            case "move":
                self._move()
            case "copy":
                self._copy()
            case "stop":
                self._take_over(blow, code=HELD if stood < self._expected.num_rows else 0)
            case "worker" | "ray":
                self._hurt |= blow.kind == "ray"
                _kill(targets)
            case "all":
                end_all({self._run.session})
                self._go_on(blow)
            case "driver" | "race":
                _kill(targets)
                self._go_on(blow)

    def _targets(self, blow: Blow) -> list[psutil.Process]:
        """What a blow hits: one process drawn among those of its kind, or all."""
        found = members({self._run.session})
        if blow.kind in ("all", "damage"):
            return found
        role = blow.kind if blow.kind in ("worker", "ray") else "driver"
        found = sorted((p for p in found if self._role(p) == role), key=lambda p: p.pid)
        return found and [found[int(blow.choice * len(found))]]

    def _role(self, process: psutil.Process) -> str:
        return role_of(process, self._world.sessions)

    def _go_on(self, blow: Blow) -> None:
        """Start again the command that was killed, twice where two are to race."""
        self._run.process.wait()
        time.sleep(blow.pause_s)
        self._start()
        # Of two that find nothing to do both may be right.
        if blow.kind == "race" and self._history.num_rows < self._expected.num_rows:
            self._race(self._run, self._world.run(self._store, self._executor))

    def _race(self, *runs: Run) -> None:
        """Of two drivers that started at once exactly one goes on, and the other says that it cannot."""
        deadline = time.monotonic() + STUCK_S
        while all(run.process.poll() is None for run in runs) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        ended = [run for run in runs if run.process.poll() is not None]
        codes = [run.process.returncode for run in ended]
        if codes != [HELD]:
            said = [run.last_line for run in ended]
            self._complain(f"of two drivers that raced these have ended, with codes {codes}: {said}")
        for run in runs:
            if run not in ended:
                self._run = run

    def _take_over(self, blow: Blow, *, code: int) -> None:
        """Put the driver to sleep, let another one take its study, and wake it: it must end with `code`."""
        sleeper, epoch = self._run, self._history.epoch
        sleeper.process.send_signal(signal.SIGSTOP)
        self._start("--take-over")
        opened = self._wait(lambda: self._history.epoch > epoch, self._run)
        if opened:
            woken = time.monotonic() + blow.pause_s
            self._wait(lambda: time.monotonic() >= woken, self._run)
        sleeper.process.send_signal(signal.SIGCONT)
        if self._end_of(sleeper) != code and opened:
            told = f"code {sleeper.process.returncode}, not {code}: {sleeper.last_line}"
            self._complain(f"a driver that lost its study ended with {told}")
        end_all({sleeper.session})

    def _damage(self, blow: Blow) -> None:
        """Harm the folder, and repair it, killed once where the blow says so."""
        draw = random.Random(blow.choice)
        with self._history.held(), harming(self._folder.parent):
            deed = harm(self._folder, draw)
            self._history.harmed |= {Path(word).name for word in deed.split() if word.endswith(".parquet")}
            self._tally.blows[deed.partition(" ")[2].partition(" of ")[0]] += 1
            if blow.delay > 0.5:
                repair = self._world.do(self._store, "doctor", "--repair", self._folder.name)
                time.sleep(2.0 * draw.random())
                end_all({repair.session})
                repair.process.wait()
            repair = self._world.do(self._store, "doctor", "--repair", self._folder.name)
            if (code := repair.process.wait(timeout=STUCK_S)) != 0:
                self._complain(f"after '{deed}' a repair ended with code {code}: {repair.said.read_text()}")
        say(f"  {deed}, and repaired")

    def _move(self) -> None:
        """Rename the folder under its driver, which must end; then give it its name back."""
        elsewhere = self._folder.with_name("elsewhere")
        with self._history.held(), harming(self._folder.parent):
            self._folder.rename(elsewhere)
            code = self._end_of(self._run)
            said = self._run.said.read_text("utf-8", "replace")
            is_told = "is gone, moved or removed" in said or "no such file or directory" in said
            if code not in (0, 1) or (code == 1 and not is_told):
                self._complain(f"a run whose folder was moved ended with code {code}: {self._run.last_line}")
            if self._folder.exists():
                self._complain("a run made its folder anew that was moved")
            moved = self._world.do(self._store, "mv", elsewhere.name, self._folder.name)
            if moved.process.wait(timeout=STUCK_S) != 0:
                self._complain(f"the folder was not moved back: {moved.last_line}")
        self._start()

    def _copy(self) -> None:
        """Copy the study beside its driver."""
        name = f"copy-{len(self._copies)}"
        made = self._world.do(self._store, "cp", self._folder.name, name)
        if (code := made.process.wait(timeout=STUCK_S)) == 0:
            self._copies.append(name)
        else:
            self._complain(f"a copy ended with code {code}: {made.last_line}")

    # Runs.

    def _start(self, *arguments: str) -> None:
        self._epoch_before = self._history.epoch
        self._hurt = False
        self._run = self._world.run(self._store, self._executor, *arguments)

    def _wait(self, true: Callable[[], bool], run: Run) -> bool:
        """Wait until something is true; False where the run ends before, or does nothing for too long."""
        seq, since = self._history.seq, time.monotonic()
        while not true():
            if run.process.poll() is not None:
                return False
            if self._history.seq != seq:
                seq, since = self._history.seq, time.monotonic()
            if time.monotonic() - since > STUCK_S:
                self._complain(f"nothing was committed for {STUCK_S:.0f} s: {run.last_line}")
                end_all({run.session})
                run.process.wait()
                return False
            time.sleep(POLL_S)
        return True

    def _end_of(self, run: Run) -> int:
        """Wait for the end of a run; its exit code."""
        self._wait(lambda: False, run)
        return run.process.wait()

    def _run_once_more(self) -> None:
        """The same command when nothing is left to do, and nobody is left who could add anything."""
        if left := wait_gone(self._world.sessions, timeout_s=WORKERS_GONE_S, but=("agent",)):
            self._complain(f"these outlive the run by {WORKERS_GONE_S:.0f} s: {left}")
        self._start()
        if (code := self._end_of(self._run)) != 0:
            self._complain(f"a run with nothing to do ended with code {code}: {self._run.last_line}")

    # The end.

    def _judge(self) -> None:
        history = self._history
        verdict = judge_study(history, self._world.results(self._store), self._expected)
        self._tally.lost += verdict.lost
        self._tally.doubled += verdict.doubled
        self._tally.wrong += verdict.wrong
        for reason in verdict.reasons:
            self._complain(reason)
        if left := leftovers(history):
            self._complain(f"{len(left)} files are left behind in the study, such as {left[0]}")
        self._tally.commits.update(history.kinds)
        say(f"round {self._number} is judged: {history.seq} commits, {len(history.acknowledged)} parts")

    def _judge_copy(self, name: str) -> None:
        """Finish a copy as a study of its own: it must come to the same."""
        run = self._world.run(self._store, "inline", study=self._world.named(name))
        code = run.process.wait(timeout=STUCK_S)
        try:
            assert code == 0, f"its run ended with code {code}: {run.last_line}"
            assert_same_rows(self._world.results(self._store, name), self._expected)
        except AssertionError as error:
            self._complain(f"the study {name}, a copy made beside a driver, is wrong: {error}")

    def _complain(self, text: str) -> None:
        self._tally.complain(f"round {self._number}: {text}")


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def _kill(targets: list[psutil.Process]) -> None:
    for process in targets:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
