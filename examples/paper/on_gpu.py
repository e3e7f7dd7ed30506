r"""What needs a GPU, in one command, in the order of its worth.

    python examples/paper/on_gpu.py --data FOLDER --minutes 20 --output OUT
    python examples/paper/on_gpu.py --data FOLDER --output OUT --tiny

The second command runs all steps on very little data, to see whether they work, and
with --device cpu, without a GPU. FOLDER is that of reproduce.py beside this file; no
network is needed. The checkout that this file is in is what runs, installed or not.

Every step is a process of its own, which ends when the time is over. The same command
again does what is left: a step that is done is not run again, one that was cut off goes
on, from its checkpoint if it has one, and those that failed come last. In OUT are
summary.md, a JSON file and a log for each step, and what the step wrote.
"""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DONE, FAILED, LEFT = "done", "failed", "left"
CUT_OFF = "goes on at the next call"


class Step(NamedTuple):
    """What is run, and what there is to learn from it."""

    name: str
    command: list  # arguments of Python, from the root of the checkout
    read: Callable[[str], dict]  # what of it counts, given what it printed
    minutes: float = 1  # with less time left it is not begun
    after: str | None = None  # the step whose files it takes


def list_steps(data, folder, device, tiny):
    """Return the steps, the most valuable ones first."""

    def either(full, small):
        return (small if tiny else full).split()

    def script(name, *arguments):
        return [f"examples/{name}.py", *arguments, "--device", device]

    def table(name, *arguments):
        where = ["--data", data, "--output", folder / name]
        few = either("", "--subset 12 --epochs 1 --threads 1")
        return script("paper/reproduce", name, *where, "--runs", "1", *arguments, *few)

    def runs(name, pattern):
        return partial(read_runs, folder / name, pattern)

    weights = folder / "simclr_cifar10.pt"
    thin = either("", "--width 0.05")
    tests = either("", "-k same_seed")
    random_images = either(
        "--images 20000", "--images 40 --batch-size 20 --repeats 1 --width 0.05"
    )
    random_rows = either(
        "--rows 50000", "--rows 60 --features 5 --clusters 3 --batch-size 20"
    )
    photos = either(
        "--model resnet50",
        "--model mobilenet_v3_small --images 40 --size 64 48 --repeats 1",
    )
    own = ["--methods", "Our"]
    mnist, cifar10 = (["--dataset", name] for name in ("mnist", "cifar10"))
    pretext = cifar10 + either("--epochs 60", "--epochs 1 --subset 12 --batch-size 6")
    return [
        Step("tests", [*run_tests(device), *tests], read_tests, 2),
        Step("deep_speed", script("paper/deep_speed", *random_images), read_lines),
        Step("linear_speed", script("paper/linear_speed", *random_rows), read_lines),
        Step("features_speed", script("features_speed", *photos), read_rates, 2),
        Step(
            "table3_mnist",
            table("table3", *mnist, *own, *thin),
            runs("table3", "mnist-Our-*"),
        ),
        Step(
            "table3_cifar10",
            table("table3", *cifar10, *own, *thin),
            runs("table3", "cifar10-Our-*"),
        ),
        Step(
            "simclr_cifar10",
            script("paper/simclr", *pretext, "--data", data, "--output", weights),
            read_pretext,
        ),
        Step(
            "table4_cifar10",
            table("table4", *cifar10, *own, "--pretext", weights)
            + either("--epochs 20", ""),
            runs("table4", "cifar10-Our-*"),
            after="simclr_cifar10",
        ),
        Step(
            "table3_rivals",
            table("table3", *mnist, *cifar10[1:], *thin),
            runs("table3", "*"),
        ),
    ]


def run_tests(device):
    """Return the command of the tests of a device.

    The project's configuration is left out, and its fixtures: they ask for plugins, and
    for a version of pytest, that may not be there.
    """
    chosen = ["-m", "cuda" if device == "cuda" else "not cuda"]
    alone = ["-c", os.devnull, "--rootdir", ROOT, "--noconftest"]
    quiet = ["-q", "-rfE", "-p", "no:cacheprovider"]
    quiet += ["-W", "ignore::pytest.PytestUnknownMarkWarning"]
    return ["-m", "pytest", "tests/test_device.py", *chosen, *alone, *quiet]


# --- What a step has found --------------------------------------------------


def read_tests(text):
    """Return how many tests passed, and which did not."""
    counts = re.findall(r"^=* ?(\d+ [\w, ]+ in [\d.]+s)", text, re.M)
    bad = re.findall(r"^(?:FAILED|ERROR) (.+)$", text, re.M)
    found = {"tests": counts[-1]} if counts else {}
    return found | ({"errors": bad} if bad else {})


def read_lines(text):
    """Return what stands behind names with a colon."""
    names = r"train|predict|pseudo-labels[\w ]*|\d+ features"
    return dict(re.findall(rf"^({names}): (.+)$", text, re.M))


def read_rates(text):
    """Return images per second, and the line about the grid search."""
    rate = re.compile(r"^(arrays|JPEG files) +([\d.]+) +([\d.]+) +([\d.]+)", re.M)
    columns = ("images/s", "images/s by hand", "ratio")
    return {
        name: dict(zip(columns, map(float, row), strict=True))
        for name, *row in rate.findall(text)
    } | dict(re.findall(r"^(grid search): (.+)$", text, re.M))


def read_pretext(text):
    """Return the number of epochs, and the last loss if there was one to see.

    A training that had only its end left to do shows none.
    """
    epochs = re.findall(r": (\d+) epochs$", text, re.M)
    losses = re.findall(r"loss=([\d.]+|nan)", text)
    found = {"epochs": int(epochs[-1])} if epochs else {}
    return found | ({"loss": float(losses[-1])} if losses else {})


def read_runs(folder, pattern, text):
    """Return the numbers in the files of runs, and what went wrong with others."""
    files = sorted(folder.glob(f"{pattern}.json"))
    runs = {path.stem: json.loads(path.read_text()) for path in files}
    errors = [f"{name}: {run['error']}" for name, run in runs.items() if "error" in run]
    numbers = {
        name: {
            key: value for key, value in run.items() if isinstance(value, float | int)
        }
        for name, run in runs.items()
        if "error" not in run
    }
    return numbers | ({"errors": errors} if errors else {})


# --- Running ----------------------------------------------------------------

PROBE = """
import json, platform, sys
import numpy, scipy, sklearn, torch, torchvision
import skcce
device = sys.argv[1]
if device == "cuda" and not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} sees no GPU")
torch.nn.Conv2d(3, 8, 3).to(device)(torch.ones(2, 3, 9, 9, device=device)).sum().item()
found = {"device": f"CPU, {platform.machine()}"}
if device == "cuda":
    properties = torch.cuda.get_device_properties(0)
    found = {
        "device": properties.name,
        "memory, GiB": round(properties.total_memory / 2**30, 1),
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
    }
found |= {"python": platform.python_version()}
for package in (skcce, torch, torchvision, numpy, scipy, sklearn):
    found[package.__name__] = package.__version__
print(json.dumps(found))
"""


def describe(device):
    """Return the names of device and versions; exit if the device does not compute."""
    result = subprocess.run(
        [sys.executable, "-c", PROBE, device],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        check=False,
    )
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason"])[-1]
        sys.exit(
            f"--device {device} cannot be used: {reason}. --device cpu --tiny tries "
            "all steps out without a GPU."
        )
    return json.loads(result.stdout.splitlines()[-1])


def environment():
    """Return the environment of a step: the checkout before what is installed."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "TQDM_MININTERVAL": "10",
        "MPLBACKEND": "Agg",
    }


def call(command, log, seconds):
    """Run Python, and return its exit status; None if it took longer than `seconds`.

    Ctrl-C must not reach a fit, which would end in order, and pass for a whole one. So
    the process has a group of its own, and is ended by another signal.
    """
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(),
            cwd=ROOT,
            process_group=0,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                end(process)


def end(process):
    """End a process and its children, politely at first."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def settings_of(step):
    """Return the step's arguments but for paths, which may change between calls."""
    return [argument for argument in step.command if not isinstance(argument, Path)]


def run(step, folder, machine, deadline):
    """Run a step until it ends or time is over, and write what there is to know."""
    log, before = folder / f"{step.name}.log", read_record(step, folder)
    record = {
        "name": step.name,
        "command": shlex.join(["python", *map(str, step.command)]),
        "settings": settings_of(step),
        "state": CUT_OFF,
        "rc": None,
        "machine": machine,
    }
    earlier = before["seconds"] if before["state"] == CUT_OFF else 0
    start = time.monotonic()
    try:
        record["rc"] = call(step.command, log, deadline - start)
    finally:  # also after an interrupt
        text = log.read_text(errors="replace") if log.exists() else ""
        try:
            record["results"] = step.read(text)
        except Exception as error:  # a step may print and write anything
            record["results"] = {"errors": [f"{type(error).__name__}: {error}"]}
        if record["rc"] is not None:
            works = record["results"] and "errors" not in record["results"]
            record["state"] = DONE if record["rc"] == 0 and works else FAILED
        record["seconds"] = round(earlier + time.monotonic() - start, 1)
        record["printed"] = text[-20_000:]
        write(folder / f"{step.name}.json", json.dumps(record, indent=1))
    return record


def read_record(step, folder):
    """Return what is known of a step; it is left if it was run in another way."""
    path = folder / f"{step.name}.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    if record.get("settings") != settings_of(step):
        return {"name": step.name, "state": LEFT, "seconds": 0, "results": {}}
    return record


def run_all(steps, folder, machine, deadline, report):
    """Run what is not done, while there is time; call `report` after each step."""
    states = {step.name: read_record(step, folder)["state"] for step in steps}
    todo = [step for step in steps if states[step.name] != DONE]
    # What failed comes last, with what waits for it: it may fail again.
    todo.sort(key=lambda step: FAILED in (states[step.name], states.get(step.after)))
    for step in todo:
        if step.after is not None and states[step.after] != DONE:
            continue
        if deadline - time.monotonic() <= 60 * step.minutes:
            continue
        print(f"{step.name} ...", flush=True)
        record = run(step, folder, machine, deadline)
        states[step.name] = record["state"]
        print(f"    {record['state']} ({record['seconds']:.0f} s)", flush=True)
        report()


# --- The summary ------------------------------------------------------------


def summarize(steps, folder, machine, again):
    """Return what is known of all steps, as Markdown."""
    records = [read_record(step, folder) for step in steps]
    lines = ["# What needs a GPU", ""]
    lines += [", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    lines += ["| step | state | seconds |", "| --- | --- | --- |"]
    lines += [f"| {r['name']} | {r['state']} | {r['seconds']:.0f} |" for r in records]
    for record in records:
        if record["results"] or record["state"] == FAILED:
            lines += ["", f"## {record['name']}", "", f"    {record['command']}", ""]
            lines += [f"- {line}" for line in as_lines(record["results"])]
        if record["state"] == FAILED:
            status = f"Exit status {record['rc']}; the end of its output:"
            lines += ["", status, ""]
            lines += [f"    {line}" for line in record["printed"].splitlines()[-12:]]
    unfinished = {r["name"]: r["state"] for r in records if r["state"] != DONE}
    lines += ["", "## What is left", ""]
    for step in steps:
        if step.name in unfinished:
            wait = f", after {step.after}" if step.after in unfinished else ""
            lines += [f"- {step.name}: {unfinished[step.name]}{wait}"]
    lines += ["", f"    {again}"] if unfinished else ["Nothing."]
    return "\n".join(lines) + "\n"


def as_lines(results):
    """Return each result as a line."""
    for name, value in results.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number:.4g}" for key, number in value.items())
        elif isinstance(value, list):
            value = "; ".join(value)
        yield f"{name}: {value}"


def write(path, text):
    """Write a file that is whole, or not there at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def main(arguments=None):
    """Run what is left, and return whether something failed."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the data")
    add("--minutes", type=float, default=20.0, help="for this call (default: 20)")
    add("--output", type=Path, default=Path("results/on_gpu"), help="folder of results")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--tiny", action="store_true", help="run every step on very little data")
    args = parser.parse_args(arguments)
    if not args.data.is_dir():
        parser.error(f"--data {args.data}: there is no such folder")
    if not args.minutes >= 0:
        parser.error(f"--minutes must not be negative, not {args.minutes}")
    if args.device == "cpu" and not args.tiny:
        parser.error("--device cpu takes days; add --tiny to try all steps out")
    machine = describe(args.device)
    folder = args.output.resolve() / ("tiny" if args.tiny else "full")
    folder.mkdir(parents=True, exist_ok=True)
    steps = list_steps(args.data.resolve(), folder, args.device, args.tiny)
    if args.tiny:
        steps = [step._replace(minutes=0) for step in steps]
    command = sys.argv[1:] if arguments is None else map(str, arguments)
    again = shlex.join(["python", "examples/paper/on_gpu.py", *command])

    def report():
        write(folder / "summary.md", summarize(steps, folder, machine, again))

    report()
    try:
        run_all(steps, folder, machine, start + 60 * args.minutes, report)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    finally:
        report()
        print(f"\n{(folder / 'summary.md').read_text()}")
    states = [read_record(step, folder)["state"] for step in steps]
    return int(FAILED in states)


if __name__ == "__main__":
    # As Ctrl-C: what is known so far is written down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
