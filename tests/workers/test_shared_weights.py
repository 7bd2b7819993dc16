"""Promise: workers of one machine that load one model share the memory of its weights."""

import json
import subprocess
import sys

import pytest

_WORKER = """
import json, re, sys
import torch
torch.set_num_threads(1)
from workers.model.loading import load
from workers.model.references import resolve
from workers.engine.replay.probe import probed
from workers.vocabulary import ModelSpec

spec = ModelSpec(ref="smollm2-135m")
model = probed(load(spec, resolve(spec)))
model.forward(torch.arange(5)[None], torch.tensor([[4]]))
print("ready", flush=True)
sys.stdin.readline()
sizes = {}
inside = False
for line in open("/proc/self/smaps"):
    if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
        inside = line.rstrip().endswith("model.safetensors")
    elif inside and line.rstrip().endswith("kB"):
        name, size = line.removesuffix("kB\\n").split(":")
        sizes[name] = sizes.get(name, 0) + 1024 * int(size)
held = sum(p.nbytes for p in model.module.parameters())
print(json.dumps({"held": held, **sizes}), flush=True)
sys.stdin.readline()
"""


@pytest.mark.smollm2
@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel in /proc")
def test_the_weights_of_two_workers_lie_in_memory_once() -> None:
    start = [sys.executable, "-c", _WORKER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(start, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    try:
        assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 2
        for worker in workers:
            worker.stdin.write("tell\n")
            worker.stdin.flush()
        seen = [json.loads(worker.stdout.readline()) for worker in workers]
    finally:
        for worker in workers:
            worker.communicate("end\n")
    for sizes in seen:
        assert sizes["held"] > 500e6
        # All weights are pages of the file, and none of these a copy of its own.
        assert sizes["Rss"] > 0.9 * sizes["held"]
        assert sizes["Private_Clean"] + sizes["Private_Dirty"] < 0.05 * sizes["held"]
