"""What the tables and figures share: their runs, a file for each, and the table."""

import argparse
import json
import time
import traceback
import warnings
import zlib
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from tqdm.auto import tqdm

import skcce
from skcce.metrics import clustering_accuracy_score

SCORES = {
    "ACC": clustering_accuracy_score,
    "NMI": normalized_mutual_info_score,
    "ARI": adjusted_rand_score,
}
# What the files of runs may hold; some targets leave out a part.
IN_FILES = (*SCORES, "test ACC", "loss", "clusters", "seconds")
# Arguments that do not change what a run gives.
MAY_CHANGE = {
    *("data", "download", "output", "markdown", "picture", "device", "threads"),
    # Those that choose cells, or what is shown of them.
    *("runs", "dataset", "methods", "scores", "clusters", "corrupted", "ratios"),
    "only",
}


class Cell(NamedTuple):
    """Place of a run in a table, and its seed."""

    row: str
    column: str
    seed: int


def at_least_one(text):
    """Return a number of the command line, from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def add_arguments(add, target, n_runs=6):
    """Add the arguments of all targets that run something."""
    text = "number of runs; the seeds are 0, 1, ... (default: %(default)s)"
    add("--runs", type=at_least_one, default=n_runs, help=text)
    add("--output", type=Path, default=Path("results", target), help="folder of runs")
    add("--markdown", action="store_true", help="print the table as Markdown")


def add_data_arguments(add, methods, datasets, scores=("ACC",)):
    """Add the arguments of targets with a row for each method."""
    add("--data", type=Path, required=True, help="folder of the data")
    add("--download", action="store_true", help="fetch data that are not there")
    add("--dataset", nargs="+", choices=datasets, default=list(datasets))
    add("--subset", type=int, help="use only this many images, drawn at random")
    add("--methods", nargs="+", choices=methods, default=list(methods))
    add("--scores", nargs="+", choices=IN_FILES, default=list(scores))


def add_network_arguments(add, epochs=50):
    """Add the arguments of targets that train a network."""
    add("--epochs", type=int, default=epochs)
    add("--device", default="auto")
    add("--threads", type=int, help="of torch on the CPU")


def reproduce(
    args, title, rows, columns, load, run, paper, scores, form=None, by_score=False
):
    """Run what has no file yet, print the table, and return what the files hold.

    Parameters
    ----------
    args : Namespace
        Arguments of the command line.
    title : str
        What the table is.
    rows, columns : sequences of str
        Its layout.
    load : callable
        Returns the data of a column: ``load(args, column)``.
    run : callable
        Returns scores and other plain values: ``run(args, data, cell, checkpoint)``. A
        text "remark" is printed below the table.
    paper : dict
        The paper's figures, {column: {row: {score: (mean, std)}}}.
    scores : sequence of str
        What is printed of a run.
    form : callable, default=None
        Returns the text of a mean and a standard deviation, which may be None.
    by_score : bool, default=False
        Whether columns of the same score stand together.

    Returns
    -------
    dict
        What the file of each cell holds; it has an "error" if the run failed.
    """
    results = run_all(args, product(rows, columns), load, run)
    heads = [*product(columns, scores)]
    if by_score:
        heads.sort(key=lambda head: scores.index(head[1]))
    lines = layout(results, rows, heads, paper, form or percent)
    print(f"\n{title}; mean (standard deviation), runs: {args.runs}\n")
    print(as_markdown(lines) if args.markdown else as_text(lines))
    print("\n".join(["", *remarks(results)]))
    return results


def run_all(args, places, load, run):
    """Return {cell: what its file holds}, and write the files that are missing.

    places : pairs of row and column
    """
    settings = {
        name: str(value)
        for name, value in sorted(vars(args).items())
        if name not in MAY_CHANGE
    }
    args.output.mkdir(parents=True, exist_ok=True)
    columns = {}
    for row, column in places:
        columns.setdefault(column, []).append(row)
    cells = [
        Cell(row, column, seed)
        for column, rows in columns.items()
        for seed, row in product(range(args.runs), rows)
    ]
    paths = {cell: path_of(args.output, cell, settings) for cell in cells}
    results = {cell: read(path) for cell, path in paths.items()}
    todo = [cell for cell in cells if results[cell] is None]
    with tqdm(total=len(cells), initial=len(cells) - len(todo)) as bar:
        for column in columns:
            missing = [cell for cell in todo if cell.column == column]
            data = attempt(load, args, column) if missing else None
            for cell in missing:
                bar.set_description(f"{column}, {cell.row}, run {cell.seed}")
                results[cell] = data
                if not failed(data):
                    checkpoint = paths[cell].with_suffix(".npz")
                    resumes = checkpoint.exists()
                    result = attempt(run, args, data, cell, checkpoint)
                    if resumes:
                        result["remark"] = "resumed, seconds are of the rest"
                    results[cell] = result
                    bar.write(describe(cell, result))
                    head = {"version": skcce.__version__, "settings": settings}
                    write(paths[cell], cell._asdict() | head | result)
                    if not failed(result):
                        checkpoint.unlink(missing_ok=True)
                bar.update()
    return results


def attempt(function, *arguments):
    """Return the result of a call, or what went wrong."""
    try:
        return function(*arguments)
    except Exception as error:
        return {
            "error": " ".join(str(error).split()) or type(error).__name__,
            "kind": "absent" if isinstance(error, OSError | ImportError) else "failed",
            "traceback": traceback.format_exc(),
        }


def failed(result):
    """Tell whether `result` says what went wrong."""
    return isinstance(result, dict) and "error" in result


def path_of(folder, cell, settings):
    """Return the path of the file of a run; with other settings it is another one."""
    key = zlib.crc32(json.dumps(settings).encode())
    name = f"{cell.column}-{cell.row}-{cell.seed}-{key:08x}.json"
    return folder / name.replace(" ", "_")


def write(path, result):
    """Write a file that is whole, or not there at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1))
    part.replace(path)


def read(path):
    """Return what the file of a run holds; None without one, or if the run failed."""
    result = json.loads(path.read_text()) if path.exists() else {"error": "not run"}
    return None if failed(result) else result


def describe(cell, result):
    """Return a line about one run."""
    text = f"{cell.column}, {cell.row}, run {cell.seed}: "
    if failed(result):
        return text + result["error"]
    return text + ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in result.items()
    )


def layout(results, rows, heads, paper, form):
    """Return the table as lines of texts: the paper's figures, ours, and our seconds.

    heads : pairs of column and score, from left to right
    """
    scores = dict.fromkeys(score for _, score in heads)
    titles = [f"{c} {s}" if len(scores) > 1 else c for c, s in heads]
    lines = [["", "", *titles]]
    for row in rows:
        theirs, ours, seconds = [], [], []
        for column, score in heads:
            figures = paper.get(column, {}).get(row, {}).get(score)
            theirs.append(form(*figures) if figures else "---")
            runs = [r for cell, r in results.items() if cell[:2] == (row, column)]
            ours.append(summary(runs, score, form))
            times = [run["seconds"] for run in runs if "seconds" in run]
            is_first = score == next(iter(scores))
            seconds.append(f"{np.mean(times):.3g}" if times and is_first else "")
        block = [["ours", *ours]]
        if paper:
            block = [["paper", *theirs], *block]
        if "seconds" not in scores:
            block += [["seconds", *seconds]]
        lines += [["", *line] for line in block]
        lines[-len(block)][0] = row
    return lines


def summary(runs, score, form):
    """Return the text of a cell; it has a star if there is a remark about its runs."""
    values = [run[score] for run in runs if score in run]
    if values:
        spread = np.std(values) if len(values) > 1 else None
        return form(np.mean(values), spread) + "*" * bool(remarks_of(runs))
    kinds = {run["kind"] for run in runs if failed(run)}
    return min(kinds, default="---")


def percent(mean, std):
    """Return the text of a score in percent."""
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ({std:.1f})"


def remarks_of(runs):
    """Return what there is to say about some runs."""
    texts = [run.get("error", run.get("remark")) for run in runs]
    return [text for text in texts if text is not None]


def remarks(results):
    """Return a line for each thing that there is to say, with the cells it is about."""
    cells = {}
    for cell, result in results.items():
        for remark in remarks_of([result]):
            cells.setdefault((cell.column, remark), []).append(cell)
    lines = []
    for (column, remark), about in cells.items():
        names = dict.fromkeys(cell.row for cell in about)
        lines.append(f"{column}, {', '.join(names)} (runs: {len(about)}): {remark}")
    return lines


def as_text(lines):
    """Return lines of cells as columns of text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def as_markdown(lines):
    """Return lines of cells as a table in Markdown."""
    head, *rest = lines
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fit(estimator, X, y=None):
    """Fit without complaints that a short fit does not converge; return the seconds."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # An interrupted fit returns what it has, which is no result of a run.
        warnings.filterwarnings("error", "Training was interrupted", UserWarning)
        try:
            estimator.fit(X, y)
        except UserWarning as warning:
            raise KeyboardInterrupt from warning
    return time.perf_counter() - start


def score(y, labels):
    """Return the scores of labels, in percent."""
    return {name: 100 * float(f(y, labels)) for name, f in SCORES.items()}
