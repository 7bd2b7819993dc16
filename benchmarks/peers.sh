#!/bin/sh
# The environment of the peers that `python -m benchmarks.peers` compares with: in .peers, which git ignores.
# With TORCH_OF, the folder of another environment, its torch is taken instead of one more.
set -e
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
if [ -n "$TORCH_OF" ]; then python="$TORCH_OF/bin/python"; fi
"$python" -m venv .peers
if [ -n "$TORCH_OF" ]; then
    there="$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    here="$(.peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    echo "$there" > "$here/torch.pth"
fi
.peers/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
