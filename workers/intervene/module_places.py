"""Named places of any module; as a program, the check of one model's sites.

``python -m`` reads a model's spec on stdin and writes the report on its named sites to stdout.
"""

__all__ = ["main", "places_of"]

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from workers.errors import ModelError, SwapyardError
from workers.intervene.runs import evaluating
from workers.intervene.site_probe import find_identities
from workers.model.families import family_of
from workers.model.hooks import Tap, Visit, Visits, visiting
from workers.model.loading import facts_of, load_module
from workers.model.places import Places, blocks_path
from workers.model.references import resolve
from workers.vocabulary import ModelSpec
from workers.zoo.base import ZooModel


def places_of(module: nn.Module) -> Places:
    """The places of a module: named ones too, where its config names a known family."""
    name = type(module).__name__
    if not isinstance(module, ZooModel) and not hasattr(getattr(module, "config", None), "to_dict"):
        return Places(module=module, name=name)
    try:
        facts = facts_of(module)
        family = family_of(facts.model_type)
    except ModelError:
        return Places(module=module, name=name)
    blocks = blocks_path(module, family)
    if blocks is None:
        return Places(module=module, name=name, facts=facts)
    places = Places(module=module, name=name, facts=facts, family=family, blocks=blocks)

    def run(prompts: Tensor, visits: Sequence[tuple[Tap, Visit]]) -> Visits:
        name = "inputs_embeds" if prompts.is_floating_point() else "input_ids"
        with torch.no_grad(), evaluating(module), visiting(module, visits) as seen:
            module(**{name: prompts})
        return seen

    # At the first call that names a site which may be refused; all others pay nothing.
    return replace(places, identities=cache(lambda: find_identities(places, run)))


def main() -> None:
    """Load the model, which is on this machine, and try what its sites hold."""
    spec = ModelSpec.model_validate_json(sys.stdin.read())
    try:
        module = load_module(spec, resolve(spec, fetch=False), device="cpu")
    except SwapyardError as error:
        sys.exit(str(error))
    print(places_of(module).identities().to_json())


if __name__ == "__main__":
    main()
