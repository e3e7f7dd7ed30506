"""The tables and figures of the paper, run again: its figures beside ours.

    python examples/paper/reproduce.py table3 --data FOLDER --dataset mnist --runs 2
    python examples/paper/reproduce.py table3 --help

table1  projected gradient descent, EM, and the exact solver
table2  clusters of fixed features
table3  features and clusters together, a VGG-4 from scratch
table4  a ResNet-18, from pretext weights
table5  a few labels
table6  the forward and the reverse divergence; with --deep Table 7
fig1    the two cross-entropies of a prediction
fig2    training with corrupted labels
tune    choose the hyper-parameters that the paper does not give

Every run leaves a JSON file in the folder --output: the same command goes on where it
was interrupted, and runs again what failed. After a change of the code, delete the
files. A cell of which there are no data, or no weights, says so, and the rest goes on.
"""

import argparse
import sys
from importlib import import_module

TARGETS = [
    *("table1", "table2", "table3", "table4", "table5", "table6"),
    *("fig1", "fig2", "tune"),
]


def main(arguments=None):
    """Run a target, a module of this folder."""
    arguments = sys.argv[1:] if arguments is None else [str(a) for a in arguments]
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("target", choices=TARGETS)
    target = parser.parse_args(arguments[:1]).target
    module = import_module(target)
    parser = argparse.ArgumentParser(
        prog=f"{parser.prog} {target}",
        description=module.__doc__,
        formatter_class=layout,
    )
    module.add_arguments(parser.add_argument)
    try:
        module.main(parser.parse_args(arguments[1:]))
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.")
        sys.exit(130)


if __name__ == "__main__":
    main()
