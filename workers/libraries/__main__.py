"""Tries every place with the versions at hand: a JSON object on stdout, versions and outcomes."""

__all__ = ["main"]

import json
import sys
import warnings
from dataclasses import asdict
from importlib.metadata import version

from workers.libraries import LIBRARIES, all_places, tried


def main() -> None:
    """Print versions of the libraries and how every place fares."""
    warnings.simplefilter("ignore")
    outcomes = [asdict(tried(place)) for place in all_places()]
    versions = {name: version(name) for name in LIBRARIES if name != "python"}
    versions["python"] = sys.version.split()[0]
    json.dump({"versions": versions, "outcomes": outcomes}, sys.stdout)


if __name__ == "__main__":
    main()
