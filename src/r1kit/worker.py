"""`python -m r1kit.worker RECIPE RUN SEED`: a worker of `r1kit run --jobs`, which starts it and writes to its stdin."""

import sys
from pathlib import Path

from r1kit.cli import Call, guarded

if __name__ == "__main__":
    recipe, run, seed = sys.argv[1:]
    sys.exit(guarded(lambda: Call("r1kit.jobs", (recipe, Path(run), int(seed) if seed else None))))
