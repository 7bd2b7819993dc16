"""As a program: a model's spec on stdin, the report on its named sites on stdout."""

__all__ = ["main"]

import sys

from workers.errors import SwapyardError
from workers.model.loading import load_module
from workers.model.references import resolve
from workers.vocabulary import ModelSpec
from workers.wrapper.intervenable import places_of


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
