"""x"""
import time
from pathlib import Path
from .world import *

def test_x(tiny_folder: Path) -> None:
    made = study(tiny_folder, [row("Spain", "Italy"), row("Italy", "Peru")], "[{sites: [mlp_output], layers: all, positions: all}]")
    t=time.time()
    plan = planned(made)
    print(time.time()-t)
    t=time.time()
    plan = planned(made)
    print(time.time()-t)
    print(plan.num_jobs, plan.tiles)
