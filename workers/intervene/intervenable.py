"""Any torch module with interventions: the same steps as the engine's, made from tensors instead of cells.

    net = IntervenableModel.load("smollm2-135m")
    swap = Unit("block_output", layer=10, position=-1)
    out = net("The capital of Spain is", "The capital of Italy is", units=[swap])
    out.logits

Shapes: B examples, T tokens, P positions of a unit, C columns of its place, V vocabulary.
"""

__all__ = ["IntervenableModel", "Intervened"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from workers.errors import ModelError, RunError, StudyError, article
from workers.intervene.edits import Edits
from workers.intervene.inputs import Given, Inputs, TextTokenizer, format_token, inputs_of, last_logits
from workers.intervene.module_places import places_of
from workers.intervene.operations import COLLECT
from workers.intervene.runs import Runs
from workers.intervene.saving import read_units, save_units
from workers.intervene.units import Unit, is_input
from workers.libraries.pydantic import faults
from workers.model.loading import load
from workers.model.references import resolve
from workers.vocabulary import ModelSpec
from workers.zoo.configs import is_zoo

Collection = Tensor | tuple[Tensor | None, ...]

Sources = Given | Mapping[str, Given] | None
"""One source, or several by name: ``source``, ``source_2`` …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervened:
    """Result of an intervened run."""

    output: Any
    """Whatever the module returned."""
    base: Any
    """Output of the base without intervention, where ``base_output`` asked for it; otherwise None."""
    source: Any
    """Output of the source without intervention, where a unit takes its value from it; otherwise None."""
    collected: tuple[Collection, ...]
    """Activations of each unit that collects, in order: [B, P, C], in a subspace its coordinates; where
    examples differ in their positions a tensor [P, C] for each, None for one that is left out."""

    @property
    def logits(self) -> Tensor:
        """The output's logits.

        Raises:
            ModelError: the module returns none.
        """
        logits = getattr(self.output, "logits", None)
        if not isinstance(logits, Tensor):
            raise ModelError(
                f"the module returned {article(type(self.output).__name__)} without logits; see output"
            )
        return logits


class IntervenableModel(nn.Module):
    """A module, and units that change its runs.

    The module's parameters are frozen (see `enable_gradients`) and it runs in evaluation mode, whatever mode
    it is in, so there is never dropout. Nothing stays on it after a call: hooks are removed whatever happens,
    and those of others are left alone.

    Args:
        module: any module. Sites have names where its config names a known family; module paths always work.
        units: the units of calls that name none; their learned subspaces are parameters of this model.
        tokenizer: of the transformers library, for inputs as text.
    """

    def __init__(
        self, module: nn.Module, units: Sequence[Unit] = (), *, tokenizer: TextTokenizer | None = None
    ) -> None:
        super().__init__()
        self.module = module.requires_grad_(False)
        self.units = _checked(units)
        self.tokenizer = tokenizer
        learned = dict.fromkeys(found for unit in self.units for found in unit.subspaces())
        self.subspaces = nn.ModuleList(learned)
        self._places = places_of(module)

    @classmethod
    def load(
        cls,
        ref: str,
        units: Sequence[Unit] = (),
        *,
        dtype: str = "float32",
        device: str = "auto",
        missing_weights: Literal["initialise"] | None = None,
        seed: int | None = None,
        **options: object,
    ) -> Self:
        """A model by an alias, a hub id, a folder or ``zoo:NAME``, with its tokenizer; fetched if need be.

        Args:
            ref: which.
            units: as above.
            dtype: ``float32``, ``bfloat16`` or ``float16``.
            device: ``auto`` is a CUDA device where there is one.
            missing_weights: ``initialise`` draws the weights that a checkpoint lacks from the seed; without
                it a checkpoint that has not exactly the model's weights is refused.
            seed: of a built-in model, or of ``missing_weights``.
            options: what a built-in model is made of, ``width=32, num_layers=1, outputs=2, seed=0``.

        Raises:
            ModelError: it cannot be found, fetched or loaded.
        """
        if seed is not None and is_zoo(ref):
            options, seed = {**options, "seed": seed}, None
        given = {"ref": ref, "dtype": dtype, "device": device, "options": options}
        drawn = {"missing_weights": missing_weights, "seed": seed}
        try:
            spec = ModelSpec.model_validate({**given, **drawn})
        except ValidationError as error:
            first = faults(error)[0]
            if first.kind == "carried":  # of keys that do not go together, in our words already
                raise ModelError(f"model {ref!r}: {first.wanted}") from None
            where = ".".join(map(str, first.where))
            raise ModelError(f"{where} {first.given!r} is not allowed; allowed: {first.wanted}") from None
        facts = resolve(spec)
        tokenizer = None if facts.folder is None else _tokenizer(facts.folder)
        return cls(load(spec, facts).module, units, tokenizer=tokenizer)

    def forward(
        self,
        base: Given,
        source: Sources = None,
        *,
        units: Sequence[Unit] | None = None,
        base_output: bool = False,
        source_gradients: bool = False,
    ) -> Intervened:
        """Run `base` with the units applied in order; later ones see and override earlier ones.

        Args:
            base: a tensor (the module's first argument), a dict of its arguments, a text, a list of texts, or
                a list of lists of token ids. Shorter examples are padded at the right.
            source: the same, or a dict ``{"source": …, "source_2": …}`` of them; one example, or as many as
                the base has.
            units: instead of the model's own.
            base_output: whether the base also runs as it is.
            source_gradients: whether gradients reach the runs that values come from; otherwise they are
                constants, as in distributed alignment search.

        Raises:
            StudyError, ModelError, RunError: what is asked for cannot be; the model is as before.
        """
        chosen = self.units if units is None else _checked(units)
        inputs = {"base": self._inputs(base), **self._sources(source)}
        runs = Runs(self.module, self._places, inputs, tokenizer=self.tokenizer, gradients=source_gradients)
        ran, clean = runs.intervened(chosen, base_output=base_output)
        return Intervened(
            output=ran.output,
            base=None if clean is None else clean.output,
            source=runs.clean_output("source"),
            collected=_collected(ran.edits, chosen, inputs["base"].num_rows),
        )

    def enable_gradients(self) -> Self:
        """Let gradients reach the module's parameters, as in interchange intervention training.

        The module still runs in evaluation mode.
        """
        self.module.requires_grad_(True)
        return self

    def disable_gradients(self) -> Self:
        """Freeze the module's parameters; those of learned subspaces stay as they are."""
        self.module.requires_grad_(False)
        return self

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters for an optimizer: learned subspaces, and the module where its gradients are enabled."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def num_parameters(self, *, trainable: bool = False) -> int:
        """Number of parameters, shared ones once; with `trainable` only of the trained ones."""
        counted = self.trainable_parameters() if trainable else self.parameters()
        return sum(parameter.numel() for parameter in counted)

    def save(self, folder: str | Path) -> None:
        """Write the units: ``units.json``, and the tensors of subspaces and values as ``units.safetensors``.

        Raises:
            StudyError: a unit holds what no file can, such as a function.
        """
        save_units(self.units, Path(folder))

    @staticmethod
    def load_units(folder: str | Path) -> tuple[Unit, ...]:
        """The units that `save` wrote; those that shared a subspace share one again.

        Raises:
            StoreError: the folder does not hold units.
        """
        return read_units(Path(folder))

    def next_token_probs(self, base: Given, source: Sources = None, *, units: Sequence[Unit] = ()) -> Tensor:
        """The distribution of the token after each prompt: [B, V], float32, without gradients.

        Args:
            base: the prompts, in any form that `forward` takes.
            source: as there.
            units: what is changed; nothing unless it is named here, not even by the model's own units.

        Raises:
            ModelError: the module returns no logits.
        """
        with torch.no_grad():
            logits = self(base, source, units=units).logits
        return last_logits(logits, self._inputs(base)).float().softmax(-1)

    def top_tokens(
        self, base: Given, source: Sources = None, *, units: Sequence[Unit] = (), k: int = 10
    ) -> list[tuple[str, float]]:
        """The k likeliest next tokens of one prompt, each with its probability; see `next_token_probs`.

        Raises:
            RunError: several prompts.
        """
        probs = self.next_token_probs(base, source, units=units)
        if len(probs) != 1:
            raise RunError(f"{len(probs)} prompts; give one")
        top, ids = probs[0].topk(min(k, probs.shape[-1]))
        return [(self.format_token(id_), p) for id_, p in zip(ids.tolist(), top.tolist(), strict=True)]

    def format_token(self, token_id: int) -> str:
        """A token as text in which spaces and line ends can be seen; without a tokenizer its number."""
        return format_token(self.tokenizer, token_id)

    def _inputs(self, given: object) -> Inputs:
        return inputs_of(given, self.module, self.tokenizer)

    def _sources(self, source: object) -> dict[str, Inputs]:
        """The inputs that values are taken from, by name.

        Raises:
            RunError: a name that no source has.
        """
        if source is None:
            return {}
        if not isinstance(source, Mapping) or not any(is_input(str(name)) for name in source):
            return {"source": self._inputs(source)}
        for name in source:
            if name == "base" or not is_input(name):
                raise RunError(f"a source named {name!r}; name them 'source', 'source_2' …")
        return {name: self._inputs(given) for name, given in source.items()}


def _checked(units: object) -> tuple[Unit, ...]:
    """Units, if they are a list of such.

    Raises:
        StudyError: they are something else.
    """
    if isinstance(units, list | tuple) and all(isinstance(unit, Unit) for unit in units):
        return tuple(units)
    raise StudyError(f"units {units!r}; give a list of sy.Unit(…), also for a single one")


def _collected(edits: Edits, units: Sequence[Unit], num_rows: int) -> tuple[Collection, ...]:
    """Activations that each unit which collects found."""
    numbers = [number for number, unit in enumerate(units) if unit.intervention == COLLECT]
    return tuple(_joined([edits.collected(number, row) for row in range(num_rows)]) for number in numbers)


def _joined(rows: Sequence[Tensor | None]) -> Collection:
    found = [row for row in rows if row is not None]
    is_regular = len(found) == len(rows) and len({row.shape for row in found}) == 1
    return torch.stack(found) if is_regular else tuple(rows)


def _tokenizer(folder: Path) -> TextTokenizer:
    from transformers import AutoTokenizer

    return cast(TextTokenizer, AutoTokenizer.from_pretrained(folder, local_files_only=True))
