"""Figure 1 of the paper: the two cross-entropies of a prediction and a soft label.

    python examples/paper/reproduce.py fig1 --picture fig1.png

The picture is that of the gallery, from ``examples/plot_collision_loss.py``.
"""

import runpy
from pathlib import Path

PAGE = Path(__file__).parents[1] / "plot_collision_loss.py"


def add_arguments(add):
    """Add the arguments of the command line."""
    add("--picture", type=Path, default=Path("fig1.png"), help="file to draw")


def main(args):
    """Draw."""
    import matplotlib

    matplotlib.use("Agg")
    runpy.run_path(str(PAGE))["figure"].savefig(args.picture, dpi=130)
    print(f"The picture is in {args.picture}")
