"""How long the report takes from cached artifacts: 9 experiments with 108 variants and 324 runs, made up.

    python benchmarks/report.py

Prints the seconds of a fresh process, with all imports: the plots of all experiments, then the report of them all. The
report is to take at most 5 s for 100 runs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dlpipe.artifacts import Store
from tests import synthetic

EXPERIMENTS = 9
CODE = """
import sys
from pathlib import Path
from dlpipe.artifacts import Store
from dlpipe.plan import make_plan
from dlpipe.spec.loading import load
from dlpipe.stages import {stage}
root = Path(sys.argv[1])
store = Store(root / "data", root / "results")
plan = make_plan([load(path, scale="demo") for path in sorted((root / "experiments").glob("*.yaml"))])
{code}
heavy = {{"torch", "matplotlib", "scipy.stats"}} & set(sys.modules)
print("imported:", ", ".join(sorted(heavy)) or "no torch, matplotlib or scipy.stats")
"""
PLOT = "for e in plan.experiments: plot.run(plan.stages[e.figures], store)"
REPORT = "report.run(plan, store, root / 'results/report/demo.html')"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = Store(root / "data", root / "results")
        one = synthetic.EXPERIMENT
        for number in range(EXPERIMENTS):
            text = one.replace("learning_rate: 0.1}", f"learning_rate: 0.1{number}1}}")  # so that nothing is shared
            plan = synthetic.plan_of(root / "experiments", text, [f"depth{number}"])
            synthetic.make_metrics(plan, store, epochs=60)
        plotting = _timed("plot", PLOT, root)
        reporting = _timed("report", REPORT, root)
        size = (root / "results/report/demo.html").stat().st_size
    variants = 12 * EXPERIMENTS
    print(f"plot:   {plotting:.2f} s for {EXPERIMENTS} experiments, {plotting / EXPERIMENTS:.2f} s each")
    print(f"report: {reporting:.2f} s for {variants} variants, {3 * variants} runs; {size / 1e6:.1f} MB")


def _timed(stage: str, code: str, root: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", CODE.format(stage=stage, code=code), str(root)], check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
