"""A peer as a process: ``python -m benchmarks.peer KIND``; it answers on stdout what it is asked on stdin."""

import os
import sys

from benchmarks.peer.work import serve


def main(kind: str) -> None:
    """Serve one library: each is imported only where it is asked for."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    if kind == "hooks":
        from benchmarks.peer.with_hooks import Hooks as Made
    elif kind == "pyvene":
        from benchmarks.peer.with_pyvene import Pyvene as Made
    elif kind == "nnsight":
        from benchmarks.peer.with_nnsight import Nnsight as Made
    elif kind == "transformer_lens":
        from benchmarks.peer.with_lens import Lens as Made
    else:
        sys.exit(f"there is no peer {kind!r}; there are hooks, pyvene, nnsight and transformer_lens")
    serve(Made)


if __name__ == "__main__":
    main(sys.argv[1])
