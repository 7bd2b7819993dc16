"""Trial of every place with the versions at hand: a JSON object on stdout, versions and outcomes."""

__all__ = ["main"]

import json
import warnings
from dataclasses import asdict

from workers.libraries import outcomes, versions


def main() -> None:
    """Print versions of the libraries and how every place fares."""
    warnings.simplefilter("ignore")
    found = [asdict(outcome) for outcome in outcomes()]
    # On a line of its own: what a library prints is none of it.
    print("\n" + json.dumps({"versions": versions(), "outcomes": found}))


if __name__ == "__main__":
    main()
