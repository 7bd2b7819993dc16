"""Tries every place with the versions at hand: a JSON object on stdout, versions and outcomes."""

__all__ = ["main"]

import json
import sys
import warnings
from dataclasses import asdict

from workers.libraries import all_places, tried, versions


def main() -> None:
    """Print versions of the libraries and how every place fares."""
    warnings.simplefilter("ignore")
    outcomes = [asdict(tried(place)) for place in all_places()]
    json.dump({"versions": versions(), "outcomes": outcomes}, sys.stdout)


if __name__ == "__main__":
    main()
