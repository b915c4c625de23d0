"""pyinfra, through its Python interface: one state for each batch of ten per cent, its hosts in parallel."""

import json
import subprocess
import time
from pathlib import Path

from bench.peers.layout import AFTER, Job, batch_script, config, health

PROGRAM = Path(__file__).with_name("pyinfra_deploy.py")


def run(job: Job, tools: Path) -> float:
    """Seconds of the whole update. `tools`: the virtual environment that pyinfra is in."""
    batches = [
        [
            {
                "name": home.name,
                "home": str(home),
                "config": config(home),
                "restart": list(batch_script(home)),
                "health": list(health(home)),
            }
            for home in batch
        ]
        for batch in job.batches
    ]
    plan = job.root / "plan.json"
    plan.write_text(json.dumps({"archive": str(job.archive), "version": AFTER, "batches": batches}))
    command = [str(tools / "bin" / "python"), "-P", str(PROGRAM), str(plan)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    spent = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"pyinfra failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return spent
