#!/bin/sh
# The environment of the peers that `python -m benchmarks.peers` compares with: in .peers, which git ignores.
set -e
cd "$(dirname "$0")/.."
"${PYTHON:-python3}" -m venv .peers
.peers/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
