"""Report of what a loaded model can do: how fast its jobs run, what it lost and why. No torch here.

Every worker makes one when its model is loaded. It is shown before the worker's first job and stands beside
all that the worker wrote.
"""

__all__ = ["ABILITIES", "Ability", "Capability"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

ABILITIES: Mapping[str, str] = MappingProxyType(
    {
        "resumed": "jobs run from the first block and token that they change",
        "mixed_starts": "jobs that begin at different blocks share a forward",
        "shared_prefixes": "what prompts have in common at their beginning is run once",
        "single_tokens": "a change that stays with its token sends that token alone through its block",
        "label_rows": "where only labels are asked for, only their rows of the unembedding are multiplied",
        "unchanged": "jobs that cannot change anything are filled from the base's clean run",
    }
)
"""Things that make jobs cheaper, by the name that reports and ``--require`` use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """One thing that makes jobs cheaper, and whether a model can have it."""

    name: str
    has: bool
    reason: str = ""
    """Why not, in words; empty where it has it."""
    error: str = ""
    """Type of the exception that was the reason; empty where there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """Report of what a loaded model can do, on the machine and with the libraries that loaded it."""

    abilities: tuple[Ability, ...] = ()
    attention: str = ""
    """Attention kernel, such as ``sdpa``."""
    dtype: str = ""
    device: str = ""
    weights_bytes: int = 0
    """Memory of the weights; those of one file are shared by all processes that read them as they are."""
    captures_bytes: int = 0
    """Memory that activations of clean runs may take."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that loaded it."""
    last_seen: str = ""
    """Version of the library that a model of this family was last seen to resume with; empty of others."""

    def ability(self, name: str) -> Ability:
        """The ability of that name; one that nothing was said of is not there."""
        unknown = Ability(name=name, has=False, reason="not reported")
        return next((one for one in self.abilities if one.name == name), unknown)

    def lacking(self, required: Sequence[str]) -> tuple[Ability, ...]:
        """Abilities among the required ones that it does not have."""
        return tuple(one for name in required if not (one := self.ability(name)).has)

    @property
    def tier(self) -> str:
        """Tier in which its jobs run, and why: ``resumed, checked at load``, or ``hooked: `` and a reason."""
        resumed = self.ability("resumed")
        if not resumed.has:
            return f"hooked: {resumed.reason}"
        mixed = self.ability("mixed_starts").has
        return "resumed, checked at load" + ("" if mixed else "; rows of a forward begin at one block")

    @property
    def is_surprise(self) -> bool:
        """Whether a model of a family that is known to resume does not."""
        return bool(self.last_seen) and not self.ability("resumed").has

    def lines(self, name: str) -> list[str]:
        """The report on the model called `name`, for people: one line where all is well."""
        where = f"{self.attention} attention, {self.dtype} on {self.device}"
        lines = [f"{name}: {self.tier} ({where})"]
        lines += [
            f"{name}: without {one.name} ({ABILITIES.get(one.name, '')}): {one.reason}"
            for one in self.abilities
            if not one.has and one.name != "resumed" and self.ability("resumed").has
        ]
        if self.is_surprise:
            lines.append(self.warning(name))
        return lines

    def warning(self, name: str) -> str:
        """Words that cannot be overlooked, for a model whose family resumes with other versions."""
        installed = ", ".join(f"{library} {number}" for library, number in self.versions.items())
        return (
            f"WARNING: {name} runs hooked, several times slower: {self.ability('resumed').reason}. Models of "
            f"its family were last seen to resume with {self.last_seen}; installed: {installed}. Install "
            "that version, or run with --require resumed to stop instead"
        )

    def to_json(self) -> str:
        """One line of JSON; abilities that are there are named, those that are not have their reasons."""
        data = asdict(self)
        data["abilities"] = {
            one.name: True if one.has else {"reason": one.reason, "error": one.error}
            for one in self.abilities
        }
        return json.dumps({key: value for key, value in data.items() if value}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Capability":
        """Read what `to_json` wrote; keys that are not known are left out."""
        data: dict[str, Any] = json.loads(text)
        abilities = tuple(
            Ability(name=name, has=True) if said is True else Ability(name=name, has=False, **said)
            for name, said in data.pop("abilities", {}).items()
        )
        known = {key: value for key, value in data.items() if key in cls.__dataclass_fields__}
        return cls(abilities=abilities, **known)
