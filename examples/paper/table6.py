"""Tables 6 and 7 of the paper: the forward and the reverse divergence.

    python examples/paper/reproduce.py table6 --data FOLDER
    python examples/paper/reproduce.py table6 --data FOLDER --deep

(a) is the loss of eq. (10), with KL(mean label || equal shares), (b) that of eq. (11),
with KL(equal shares || mean label). Table 6 has the features and settings of Table 2;
Table 7, --deep, the networks and settings of Table 3. Without --epochs there are 10, or
50 with --deep.
"""

import runs
import table2
import table3
from published import TABLE6, TABLE7

METHODS = ("(a)", "(b)")


def add_arguments(add):
    """Add the arguments of the command line."""
    runs.add_arguments(add, "table6")
    runs.add_data_arguments(add, METHODS, TABLE6)
    add("--deep", action="store_true", help="Table 7")
    table2.add_linear_arguments(add, epochs=None)
    table3.add_vgg4_arguments(add)
    add("--threads", type=int, help="of torch on the CPU")


def main(args):
    """Run and report."""
    table, paper = (table3, TABLE7) if args.deep else (table2, TABLE6)
    args.epochs = args.epochs or (50 if args.deep else 10)
    title = "Table 7, VGG-4 from scratch" if args.deep else "Table 6, fixed features"
    if args.deep:
        args.settings, args.lam = "paper", [args.lam]
    rows, columns = args.methods, args.dataset
    runs.reproduce(
        args, title, rows, columns, table.load, table.run, paper, args.scores
    )
