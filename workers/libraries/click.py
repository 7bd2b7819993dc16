"""Behaviour of click that may move: an interrupt that it wraps."""

__all__ = ["PLACES", "interrupt_of"]

import click

from workers.libraries import LibraryPlace


def interrupt_of(stop: BaseException) -> BaseException:
    """The interrupt that ended a command, which may have notes on how to go on; `stop` itself without one."""
    found = stop.__cause__ or stop.__context__
    return found if isinstance(found, KeyboardInterrupt) else stop


def _probe_interrupt() -> str | None:
    @click.command()
    def command() -> None:
        error = KeyboardInterrupt()
        error.add_note("how to go on")
        raise error

    try:
        command([], standalone_mode=False)
    except (click.Abort, KeyboardInterrupt) as stop:
        notes = getattr(interrupt_of(stop), "__notes__", [])
        return None if notes == ["how to go on"] else "the line that says how to go on"
    raise LookupError("an interrupt ends nothing")


PLACES = (
    LibraryPlace(
        library="click",
        name="Abort, raised from the KeyboardInterrupt",
        used_for="the command that goes on, told after Ctrl-C",
        seen_with="8.5.1",
        without="the command says that it was interrupted, and not how to go on",
        marks=("stop.__cause__",),
        probe=_probe_interrupt,
    ),
)
