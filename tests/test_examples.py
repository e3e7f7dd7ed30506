import gzip
import io
import json
import os
import re
import runpy
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from skcce import solve_pseudo_labels
from skcce.plot import ConfidenceDisplay

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def paper(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "paper"))


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


@pytest.fixture
def benchmark_folder(tmp_path, digits):
    X, y = digits[0][:200], digits[1][:200]
    folder = tmp_path / "data"
    folder.mkdir()
    # Columns that are copies, and too large for reg_covar: a mixture fails on them.
    np.savez(folder / "copies.npz", X=1e9 * X[:, 20:24].repeat(3, axis=1), y=y)
    np.savez(folder / "other.npz", pixels=X)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_benchmark_has_a_cell_for_every_outcome(benchmark_folder, monkeypatch, capsys):
    import benchmark

    found = benchmark.find_spec
    monkeypatch.setattr(
        benchmark, "find_spec", lambda name: None if name == "gemclus" else found(name)
    )
    output = benchmark_folder / "results"
    options = [benchmark_folder, "--seeds", 2, "--max-rows", 150, "--output", output]
    panels = ["--panels", "balanced", "tail-10", "balanced-auto"]
    run(benchmark, monkeypatch, *options, "--methods", "Ward", "--limit", 1e-9)
    assert (output / "results.md").read_text().count("> 1e-09 s") == 3 * 2 * 2
    methods = ["KMeans", "GaussianMixture", "GemClus-RIM", "Ward", "HDBSCAN"]
    options += [*panels, "--methods", *methods]
    run(benchmark, monkeypatch, *options)
    printed = capsys.readouterr().out
    assert "other.npz: no X and y, skipped" in printed
    text = (output / "results.md").read_text()
    assert printed.endswith(text + "\n")
    for panel in ("balanced", "tail-10", "balanced-auto"):
        for name in ("digits", "copies"):
            assert f"\n#### {panel}: {name}, " in text
    assert "digits, 150 x 64, 10 classes" in text
    assert "| ValueError: Fitting the mixture model failed" in text
    assert "| not installed " in text
    assert "> 1e-09 s" not in text  # Ward had more time
    assert (output / "quality_and_time.png").stat().st_size > 10_000
    one = json.loads((output / "runs" / "digits--tail-10--KMeans--1.json").read_text())
    assert set(one) >= {"ACC", "NMI", "ARI", "coverage", "seconds", "MB"}

    def not_again(*args):
        raise AssertionError("runs again")

    monkeypatch.setattr(benchmark, "run_apart", not_again)
    run(benchmark, monkeypatch, *options)
    assert (output / "results.md").read_text() == text
    with pytest.raises(SystemExit):
        run(benchmark, monkeypatch, "--output", output, "--max-rows", 100)
    assert "choose another --output" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(benchmark, monkeypatch, benchmark_folder / "missing.npz")


@pytest.mark.usefixtures("examples")
def test_benchmark_of_one_data_set_without_kmeans(monkeypatch, tmp_path, capsys):
    import benchmark

    outcome = {name: 50.0 for name in (*benchmark.SCORES, "coverage", "MB", "seconds")}
    outcome |= {"clusters": 10, "rows": 9, "columns": 2, "classes": 3}
    monkeypatch.setattr(benchmark, "run_cell", lambda *arguments: [outcome])
    options = ["--methods", "Ward", "MIGD", "--output", tmp_path]
    run(benchmark, monkeypatch, *options)
    printed = capsys.readouterr().out
    assert "quality_and_time.png: its times are relative to those of KM" in printed
    assert "critical" not in printed.lower()
    assert not (tmp_path / "quality_and_time.png").exists()


@pytest.mark.usefixtures("examples")
def test_critical_difference_is_that_of_demsar():
    import benchmark

    # Table 5 (a): the q of the two-tailed Nemenyi test at 5 %, of 2 to 10 methods.
    published = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for k, q in enumerate(published, 2):
        difference = benchmark.critical_difference(k, 12)
        assert_allclose(difference, q * np.sqrt(k * (k + 1) / 72), rtol=5e-4)


@pytest.mark.usefixtures("examples")
def test_a_failure_shares_the_last_rank():
    import benchmark

    scores = np.array([[50, 70, np.nan, np.nan], [60, 60, 10, np.nan]])
    assert_array_equal(benchmark.mean_ranks(scores), [1.75, 1.25, 3.25, 3.75])


@pytest.mark.usefixtures("examples")
def test_rows_of_files_are_read_as_they_say(tmp_path, digits):
    import benchmark

    X = digits[0][:90]
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    y = digits[1][:90]
    np.savez(tmp_path / "unit.npz", X=unit.astype(np.float16), y=y)
    images = X.reshape(-1, 8, 8).astype(np.uint8)
    np.savez(
        tmp_path / "parts.npz",
        X_train=images[:60],
        y_train=y[:60],
        X_test=images[60:],
        y_test=y[60:],
    )
    rows, _ = benchmark.read(tmp_path / "unit.npz", "test", None)
    assert rows.dtype == np.float32
    assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert_allclose(rows, unit, atol=1e-3)
    rows, _ = benchmark.read(tmp_path / "parts.npz", "all", None)
    assert_allclose(rows, X / 255, rtol=1e-6)
    rows, classes = benchmark.read(tmp_path / "parts.npz", "test", None)
    assert rows.shape == (30, 64)
    assert_array_equal(classes, y[60:])


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_demo_draws_its_picture(tmp_path, monkeypatch, capsys):
    import demo

    monkeypatch.setattr(demo, "N_SEEDS", 1)
    monkeypatch.setattr(demo, "METHODS", ["KMeans", "CollisionClusterer"])
    run(demo, monkeypatch, "--output", tmp_path / "demo.png")
    assert capsys.readouterr().out.count("CollisionClusterer") == 3
    assert (tmp_path / "demo.png").stat().st_size > 50_000


PAGES = {path.stem: path for path in sorted(EXAMPLES.glob("plot_*.py"))}
NOISE = PAGES.pop("plot_unknown_noise")  # has a test of its own


def run_page(path):
    matplotlib.use("Agg")
    plt.close("all")
    assert len(path.read_text().splitlines()) <= 80
    runpy.run_path(str(path))
    assert any(plt.figure(number).axes for number in plt.get_fignums())
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_page_of_the_gallery_is_short_and_draws(page, digits, monkeypatch, capsys):
    few = [array[:500] for array in digits]
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **_: few)
    run_page(PAGES[page])


@pytest.mark.slow
def test_noise_is_found_without_clean_labels(capsys):
    run_page(NOISE)
    printed = capsys.readouterr().out
    pairs = re.findall(r"true part (\S+), found (\S+)", printed)
    true, found = np.array(pairs, dtype=float).T
    assert_allclose(found, true, atol=0.11)
    accuracy = dict(re.findall(r"matrix (\w+): accuracy (\S+)", printed))
    assert float(accuracy["found"]) > float(accuracy["none"]) + 0.1
    assert float(accuracy["found"]) > float(accuracy["true"]) - 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_features_speed_prints_ratios(monkeypatch, capsys):
    import features_speed

    small = ["--model", "mobilenet_v3_small", "--images", 40, "--size", 64, 48]
    run(features_speed, monkeypatch, *small, "--repeats", 1)
    printed = capsys.readouterr().out
    differences = re.findall(r"relative difference (\S+)", printed)
    assert len(differences) == 2
    assert all(float(difference) < 1e-5 for difference in differences)
    assert "ratio" in printed.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_choosing_labels_compares_rules(tmp_path, digits, monkeypatch, capsys):
    import choose_labels

    np.savez(tmp_path / "small.npz", X=digits[0][:300], y=digits[1][:300])
    options = ["small", "--data", tmp_path, "--labels", 20, "--rounds", 2]
    run(choose_labels, monkeypatch, *options, "--seeds", 0, 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "small, 300 rows, 10 classes"
    assert [line.split()[0] for line in lines[2:]] == ["20", "150", "20", "20", "20"]
    accuracies = [float(line.split()[-3]) for line in lines[2:]]
    assert accuracies[4] > accuracies[0]


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_choosing_without_labels_prints_how_often(monkeypatch, capsys):
    import choose_without_labels

    monkeypatch.setattr(choose_without_labels, "LAMS", [0.1, 1.0])
    monkeypatch.setattr(choose_without_labels, "RATIOS", [0.5, 1.0])
    small = ["--subsets", 1, "--rows", 200, "--jobs", 1]
    studies = ["--studies", "lam", "clusters-noise"]
    run(choose_without_labels, monkeypatch, *small, *studies)
    printed = capsys.readouterr().out
    for criterion in choose_without_labels.CRITERIA:
        assert printed.count(f"\n{criterion} ") == 2
    for number in ("'auto'", "(5, 10)"):
        assert printed.count(f"\nn_clusters={number} ") == 1


@pytest.mark.usefixtures("examples")
def test_noise_has_the_values_of_rows(rng):
    import choose_without_labels

    X, y = rng.normal(size=(40, 8)), np.arange(40) % 4
    noisy, classes = choose_without_labels.add_noise(X, y, seed=0)
    assert noisy.shape == (44, 10)
    assert_array_equal(noisy[:40, :8], X)
    assert_array_equal(classes, np.append(y, [-1] * 4))
    for column, values in zip(noisy[40:, :8].T, X.T, strict=True):
        assert np.isin(column, values).all()


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_calibration_has_a_row_for_every_method(monkeypatch, capsys):
    import calibration

    options = ["--rows", 300, "--seeds", 1, "--labels", 40, 60]
    run(calibration, monkeypatch, *options)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 2 * 6
    for line in lines:
        accuracy, loss, error = map(float, line.split()[-3:])
        assert 50 < accuracy <= 100
        assert 0 < loss < 2
        assert 0 <= error < 50


@pytest.mark.usefixtures("examples")
def test_calibration_error_is_that_of_the_display():
    from calibration import scores

    proba = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8]])
    _, _, error = scores(proba, np.array([0, 0, 1, 0]))
    display = ConfidenceDisplay.from_predictions(proba, [0, 0, 1, 0])
    assert error == pytest.approx(100 * display.ece_)


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_studies_run_on_a_file(tmp_path, digits, monkeypatch, capsys):
    import choose_start
    import em_iterations
    import long_tail
    import unknown_number

    path = tmp_path / "digits.npz"
    np.savez(path, X=digits[0][:300], y=digits[1][:300])
    run(choose_start, monkeypatch, path, "--starts", 6)
    output = capsys.readouterr().out
    assert "final loss: rank correlation with ARI" in output
    run(em_iterations, monkeypatch, path, "--iterations", 1, 3, "--seeds", 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["EM", "1", "3"]
    run(long_tail, monkeypatch, path, "--ratio", 4)
    output = capsys.readouterr().out
    assert "prior=true shares" in output
    run(unknown_number, monkeypatch, path, "--seeds", 1, "--ratio", 4)
    output = capsys.readouterr().out
    for title in ("all rows, 10 classes", "thinned out, 10 classes"):
        assert title in output
    assert output.count("\nCollisionClusterer ") == output.count("\nHDBSCAN ") == 2
    np.savez(path, pixels=digits[0])
    with pytest.raises(SystemExit):
        run(long_tail, monkeypatch, path)


@pytest.mark.slow
@pytest.mark.usefixtures("paper")
def test_table_1_has_the_papers_layout(tmp_path, capsys):
    import reproduce

    picture = tmp_path / "gap.png"
    small = ["--n", 60, "--clusters", 2, 5, "--bias", 1.5, "--max-seconds", 0.2]
    files = ["--output", tmp_path / "runs", "--picture", picture]
    reproduce.main(["table1", *small, *files, "--runs", 1])
    output = capsys.readouterr().out
    for row in ("PGD(eta1)", "PGD(eta3)", "PGD (best)", "EM", "exact"):
        assert f"\n{row} " in output
    assert len(list((tmp_path / "runs").glob("*.json"))) == 12
    assert picture.stat().st_size > 30_000


@pytest.mark.usefixtures("paper")
def test_bias_skews_predictions():
    import timing

    for dtype in (np.float32, np.float64):
        balanced, skewed = (
            timing.draw_predictions(2000, 10, bias=bias, dtype=dtype) for bias in (0, 3)
        )
        for proba in (balanced, skewed):
            assert proba.dtype == dtype
            assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
        assert_allclose(balanced.mean(axis=0), 0.1, rtol=0.2)
        assert skewed.mean(axis=0).max() > 0.2


@pytest.mark.slow
@pytest.mark.usefixtures("paper")
def test_ratios_are_printed_beside_their_goals(tmp_path, blobs, monkeypatch, capsys):
    import goals

    X, y = blobs
    path = tmp_path / "blobs.npz"
    np.savez(path, X=X, y=y)
    size = ["--n", 60, "--large-k", 5, "--max-seconds", 0.05]
    run(goals, monkeypatch, *size, "--data", path)
    output = capsys.readouterr().out
    assert output.count("(goal >= 50x: ") == 6
    assert output.count("(goal >= 100x: ") == 6
    assert output.count(" s (goal <= ") == 24
    assert output.count("(goal <= 6x: ") == 4
    assert output.count("(goal <= 1.5x: ") == 1
    run(goals, monkeypatch, "--only", "training")
    assert "no --data, skipped" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("paper")
def test_peers_are_compared_or_skipped(monkeypatch, capsys):
    import peers

    size = ["--n", 60, "--clusters", 3, "--lam", 1, "--max-seconds", 1]
    run(peers, monkeypatch, *size)
    output = capsys.readouterr().out
    for bias in ("0", "1.5"):
        assert f"60 x 3, bias {bias}, lam 1: cvxpy" in output
    assert "CLARABEL" in output or "cvxpy is not installed" in output
    assert "Sinkhorn" in output or "POT is not installed" in output


@pytest.mark.usefixtures("paper")
def test_transport_labels_are_those_of_pot(monkeypatch, capsys):
    import transport

    small = ["--n", 80, "--clusters", 4, "--epsilon", 0.5, "--repeats", 1]
    run(transport, monkeypatch, *small)
    *_, row = capsys.readouterr().out.splitlines()
    assert row.split()[:4] == ["80", "x", "4", "0.5"]
    assert float(row.split()[-1]) < 1e-8


@pytest.mark.slow
@pytest.mark.usefixtures("paper")
def test_hard_problems_have_no_silent_miss(monkeypatch, capsys):
    import hard_problems

    run(hard_problems, monkeypatch, "--problems", 40)
    output = capsys.readouterr().out
    assert output.count("0 say that they did not; 0 silent misses") == 2
    assert output.count("median ") == 2
    run(hard_problems, monkeypatch, "--problems", 40, "--max-seconds", 0)
    assert capsys.readouterr().out.count(": 1 problems in ") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("paper")
@pytest.mark.parametrize("forward", [False, True])
def test_recomputed_gap_of_hard_problems_tells(forward):
    import hard_problems

    kinds = set()
    for seed in range(30):
        proba, lam, prior, weight, fixed = hard_problems.hard_problem(seed)
        if forward and hard_problems.forbids_all(proba, prior, fixed):
            continue
        result = solve_pseudo_labels(
            proba,
            lam=lam,
            prior=prior,
            divergence="forward" if forward else "reverse",
            sample_weight=weight,
            fixed=fixed,
        )
        problem = proba, lam, prior, weight, fixed, forward
        assert not hard_problems.is_miss(result, *problem)
        free = np.isnan(fixed[:, 0])
        kinds |= {"weights"} if (weight != weight[0]).any() else set()
        kinds |= {"known labels"} if not free.all() else set()
        kinds |= {"few samples"} if len(proba) < len(prior) else set()
        if not np.isfinite(result.loss):  # a known label that is impossible
            continue
        labels = result.pseudo_labels.copy()
        labels[free] = prior  # far from the predictions
        wrong = result._replace(pseudo_labels=labels)
        if (weight * free).any():
            assert hard_problems.is_miss(wrong, *problem)
    assert kinds == {"weights", "known labels", "few samples"}


@pytest.mark.usefixtures("paper")
def test_em_acceleration_prints_a_row_for_every_problem(monkeypatch, capsys):
    import em_acceleration

    small = ["--n", 60, "--clusters", 3, "--lam", 0.4, 4, "--bias", 0, 1.5]
    run(em_acceleration, monkeypatch, *small, "--max-entries", 3600)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [len(row) for row in rows] == [10] * 5


@pytest.mark.slow
@pytest.mark.usefixtures("paper")
def test_scaling_prints_a_line_for_every_problem(monkeypatch, capsys):
    import scaling

    # A process for each problem, which takes seconds to start.
    run(scaling, monkeypatch, "--sizes", "5x20", "--bias", 3, "--lam", 0.4, 1e6)
    lines = capsys.readouterr().out.splitlines()
    problems = [line.split()[:4] for line in lines if re.match(r" +\d", line)]
    assert len(problems) == 1 + 2
    assert problems[-1] == ["5", "20", "3", "1e+06"]
    sizes = ["--sizes", "100x3", "5x20", "--bias", 0, "--lam", 1]
    run(scaling, monkeypatch, *sizes, "--solvers", "exact", "--max-seconds", 0)
    assert capsys.readouterr().out.count("ended after 0 s") == 2


@pytest.fixture
def image_folder(tmp_path, rng):
    """Hold small stand-ins of MNIST and CIFAR-10: bars that lie or stand."""
    classes = np.arange(24) % 10
    grey = rng.integers(0, 50, (24, 28, 28), dtype=np.uint8)
    for image, k in zip(grey, classes, strict=True):
        image[:, 2 * k : 2 * k + 4] = 255
    np.savez(
        tmp_path / "mnist.npz",
        X_train=grey,
        y_train=classes,
        X_test=grey[:12],
        y_test=classes[:12],
    )
    jpegs = []
    for image in [*grey, *grey[:12]]:
        file = io.BytesIO()
        Image.fromarray(image[:, :, None].repeat(3, 2)).resize((32, 32)).save(
            file, "JPEG"
        )
        jpegs.append(file.getvalue())
    np.savez(
        tmp_path / "cifar10_jpeg.npz",
        jpeg=np.frombuffer(b"".join(jpegs), np.uint8),
        offsets=np.cumsum([0, *map(len, jpegs)]),
        labels=np.append(classes, classes[:12]),
        split=np.repeat([0, 1], [24, 12]),
    )
    return tmp_path


@pytest.fixture
def reproduced(paper, image_folder, capsys):
    """Return a function that runs a target on small images: what it prints, runs."""
    import reproduce

    def run_target(target, *options):
        folder = image_folder / "runs"
        data = ["--data", image_folder, "--subset", 20, "--output", folder]
        reproduce.main([target, *data, *options])
        files = [json.loads(path.read_text()) for path in folder.glob("*.json")]
        return capsys.readouterr().out, files

    return run_target


NETWORK = ["--width", 0.05, "--epochs", 1, "--device", "cpu", "--threads", 1]


def cells_of(printed, row, line):
    """Return the cells of a line of the Markdown table of `printed`."""
    lines = [text.split(" | ") for text in printed.splitlines() if text[:2] == "| "]
    names = [cells[0].removeprefix("|").strip() for cells in lines]
    cells = lines[names.index(row) + {"paper": 0, "ours": 1, "seconds": 2}[line]]
    return [cell.strip(" |") for cell in cells[2:]]


def test_table3_puts_the_paper_beside_ours(reproduced, monkeypatch):
    import runs

    sets = ["--dataset", "mnist", "cifar100-20", "--methods", "IIC", "Our"]
    options = [*sets, *NETWORK, "--runs", 2, "--markdown"]
    printed, files = reproduced("table3", *options)
    assert len(files) == 4
    for row in ("IIC", "Our"):
        ours = [file for file in files if file["row"] == row]
        assert sorted(file["seed"] for file in ours) == [0, 1]
        assert all(0 <= f["ACC"] <= 100 and f["clusters"] <= 10 for f in ours)
        accuracy = [file["ACC"] for file in ours]
        text = f"{np.mean(accuracy):.2f} ({np.std(accuracy):.1f})"
        assert cells_of(printed, row, "ours") == [text, "absent"]
    assert cells_of(printed, "Our", "paper") == ["95.11 (4.3)", "15.14 (0.5)"]
    assert "cifar100-20, IIC, Our (runs: 4): there is no cifar100-20 in" in printed
    assert "--download" in printed
    # What has a file is not run again.
    monkeypatch.setattr(runs, "fit", None)
    again, _ = reproduced("table3", *options)
    assert again.splitlines() == printed.splitlines()[4:]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--scores", "ACCURACY", "choose from 'ACC', 'NMI'"), ("--runs", 0, "at least 1")],
)
def test_wrong_options_end_before_a_fit(reproduced, capsys, option, value, message):
    with pytest.raises(SystemExit):
        reproduced("table2", option, value)
    assert message in capsys.readouterr().err.replace("ACC, NMI", "'ACC', 'NMI'")


def test_interrupted_runs_go_on(reproduced, image_folder, monkeypatch):
    from skcce.deep import DeepSoftmax

    options = ["--dataset", "mnist", "--methods", "Our", *NETWORK, "--epochs", 3]
    options += ["--runs", 1]
    _, (whole,) = reproduced("table3", *options)
    for path in (image_folder / "runs").iterdir():
        path.unlink()
    train_step = DeepSoftmax.train_step

    def interrupted_step(self, *arguments, progress):
        if progress > 0.5:
            raise KeyboardInterrupt
        return train_step(self, *arguments, progress=progress)

    with monkeypatch.context() as patch:
        patch.setattr(DeepSoftmax, "train_step", interrupted_step)
        with pytest.raises(SystemExit, match="130"):
            reproduced("table3", *options)
    printed, (resumed,) = reproduced("table3", *options)
    assert "resumed" in printed
    for name in ("ACC", "NMI", "loss", "test ACC"):
        assert resumed[name] == whole[name]


def test_failed_runs_are_told_and_run_again(reproduced, monkeypatch):
    import methods

    options = ["--features", "pixels", "--dataset", "mnist", "--runs", 1, "--markdown"]
    with monkeypatch.context() as patch:
        patch.setitem(methods.RIVALS, "MIGD", None)
        printed, files = reproduced("table2", *options)
    assert cells_of(printed, "MIGD", "ours") == ["failed"]
    assert "mnist, MIGD (runs: 1): 'NoneType'" in printed
    assert ["error" in file for file in files].count(True) == 1
    printed, files = reproduced("table2", *options)
    assert not any("error" in file for file in files)
    assert cells_of(printed, "KMeans", "paper") == ["47.62 (2.1)"]
    for row in ("KMeans", "MIGD", "SeLa", "MIADM", "Our"):
        (accuracy,) = [file["ACC"] for file in files if file["row"] == row]
        assert cells_of(printed, row, "ours") == [f"{accuracy:.2f}"]
    # Other settings have files of their own.
    options += ["--methods", "Our", "--lam", 0.4]
    assert len(reproduced("table2", *options)[1]) == len(files) + 1


@pytest.mark.usefixtures("paper")
def test_table2_takes_the_papers_step(rng):
    """Learning rate and penalty are for the weights of rows as they are given."""
    import table2

    X = rng.normal(size=(30, 4)) * [1, 2, 3, 4] + 5
    model = table2.make_clusterer("MIGD", X, 3, alpha=0.02, epochs=1).model
    random_state = np.random.RandomState(0)
    model.initialize(X, 3, labels=None, sample_weight=None, random_state=random_state)
    before, gradient = model.coef_.copy(), rng.normal(size=(30, 3))
    model.train_step(X, lambda logits: (0.0, gradient), progress=0.0)
    step = gradient.T @ (X - X.mean(axis=0)) + 0.02 * before
    assert_allclose(model.coef_, before - 0.1 * step)


@pytest.mark.usefixtures("paper")
def test_methods_have_the_papers_parameters():
    import methods
    import table4

    for kind in ("linear", "deep"):
        assert methods.own_parameters("MIGD", kind, 100.0) == {"lam": 1.3}
        assert methods.own_parameters("Our", kind, 100.0) == {"lam": 100.0}
    # IMSAT, IIC and SCAN have a view in their loss, but no weight of it.
    for method in methods.RIVALS:
        own = methods.own_parameters(method, "deep", 100.0, view_weight=0.5)
        estimator = methods.make_estimator(method, 4, **own)
        assert getattr(estimator, "view_weight", 0.5) == 0.5
    forward, reverse = (methods.make_estimator(m, 4).divergence for m in ("(a)", "(b)"))
    assert (forward, reverse) == ("forward", "reverse")
    assert table4.VIEW_WEIGHT == {"stl10": 0.5, "cifar10": 0.2, "cifar100-20": 0.4}


def test_features_may_come_from_files(reproduced, tmp_path, blobs):
    X, y = blobs
    (tmp_path / "features").mkdir()
    np.savez(tmp_path / "features" / "stl10.npz", X=X, y=y)
    options = ["--features", tmp_path / "features", "--methods", "(a)", "(b)"]
    printed, files = reproduced("table6", *options, "--runs", 1, "--markdown")
    places = {(file["row"], file["column"]) for file in files}
    assert places == {("(a)", "stl10"), ("(b)", "stl10")}
    assert cells_of(printed, "(a)", "ours")[1:] == ["absent"] * 3
    assert cells_of(printed, "(b)", "paper")[0] == "92.33 (6.4)"


@pytest.mark.slow
def test_table5_trains_with_a_few_labels(reproduced):
    import table5

    small = [*NETWORK, "--ratios", 0.1, "--dataset", "cifar10", "--runs", 1]
    small += ["--subset", 24]  # two images of each class
    printed, files = reproduced("table5", *small, "--markdown")
    assert {file["row"] for file in files} == set(table5.METHODS)
    assert not any("error" in file for file in files)
    assert cells_of(printed, "+ Our", "paper") == ["66.17"]


@pytest.mark.usefixtures("paper")
def test_labels_add_to_an_objective(rng):
    import table5

    from skcce.methods import Batch, Epoch, MutualInformation

    y = np.arange(60) % 3
    target = table5.known_labels(y, 0.2, seed=0)
    known = ~np.isnan(target[:, 0])
    assert known.sum() == 12
    assert_array_equal(target[known].argmax(axis=1), y[known])
    logits = rng.normal(size=(2, 20, 3))
    batch = Batch(rows=np.arange(20, 40))
    both = table5.WithLabels(target, MutualInformation())
    both.begin_epoch(Epoch(np.full((60, 3), 1 / 3)))
    value, gradient = both(logits, batch)
    without, of_objective = both.objective(logits, batch)
    assert value > without
    added = gradient - of_objective
    assert_allclose(added[:, ~known[20:40]], 0, atol=1e-15)
    step = 1e-6 * rng.normal(size=logits.shape)
    change = both(logits + step, batch)[0] - both(logits - step, batch)[0]
    assert_allclose(change, 2 * np.vdot(step, gradient), rtol=1e-5)


@pytest.mark.usefixtures("paper")
def test_a_part_of_the_labels_is_drawn_anew():
    import fig2

    y = np.arange(3000) % 3
    labels = fig2.corrupted_labels(y, 0.6, np.random.default_rng(0))
    assert set(labels) == {0, 1, 2}
    # A third of those that are drawn anew stay what they were.
    assert_allclose(np.mean(labels == y), 0.4 + 0.6 / 3, atol=0.03)


@pytest.mark.slow
def test_figure2_draws_and_prints_accuracies(reproduced, tmp_path):
    picture = tmp_path / "fig2.png"
    small = [*NETWORK, "--dataset", "mnist", "--corrupted", 0, 0.5, "--runs", 2]
    printed, files = reproduced("fig2", *small, "--picture", picture)
    assert "mnist collision" in printed
    assert "mnist Shannon" in printed
    assert len(files) == 8
    # Without corruption the two losses are the same.
    clean = {
        (file["column"], file["seed"]): file["ACC"]
        for file in files
        if file["row"] == "0"
    }
    for seed in (0, 1):
        assert clean["mnist collision", seed] == clean["mnist Shannon", seed]
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--alpha", 1e-3]])
def test_figure2_of_digits(reproduced, tmp_path, options):
    small = ["--subset", 600, "--epochs", 4, "--runs", 2, "--corrupted", 0.5]
    small += ["--dataset", "digits", "--picture", tmp_path / "fig2.png"]
    printed, files = reproduced("fig2", *small, *options)
    assert "digits Shannon" in printed
    assert len(files) == 4
    assert min(file["ACC"] for file in files) > 60
    assert files[0]["settings"]["alpha"] == str(options[1] if options else None)


@pytest.mark.usefixtures("paper")
def test_figure1_is_drawn(tmp_path):
    import reproduce

    reproduce.main(["fig1", "--picture", tmp_path / "fig1.png"])
    assert (tmp_path / "fig1.png").stat().st_size > 10_000
    with pytest.raises(SystemExit):
        reproduce.main(["table9"])


@pytest.mark.slow
@pytest.mark.usefixtures("paper")
def test_tuning_prints_the_best_of_each_grid(tmp_path, monkeypatch, capsys):
    import reproduce
    import tune

    grids = {
        "linear": {"MIADM": [{"lam": 1.0}, {"lam": 2.0}]},
        "deep": {"IMSAT": [{"lam": 0.1, "mu": 4.0}]},
    }
    monkeypatch.setattr(tune, "GRIDS", grids)
    small = ["--runs", 2, "--copies", 1, "--linear-epochs", 2]
    small += ["--width", 0.05, "--epochs", 1]
    reproduce.main(["tune", *small, "--output", tmp_path])
    lines = capsys.readouterr().out.splitlines()
    means = {
        lam: np.mean(
            [
                json.loads(path.read_text())["ACC"]
                for path in tmp_path.glob(f"linear_MIADM-lam={lam}-*.json")
            ]
        )
        for lam in (1.0, 2.0)
    }
    best = max(means, key=means.get)
    assert f"linear MIADM: {{'lam': {best:.1f}}}" in lines
    assert "deep IMSAT: {'lam': 0.1, 'mu': 4.0}" in lines
    # A part of the grids is not run again.
    monkeypatch.setattr(tune.runs, "fit", None)
    reproduce.main(["tune", *small, "--output", tmp_path, "--only", "linear"])
    assert f"linear MIADM: {{'lam': {best:.1f}}}" in capsys.readouterr().out


@pytest.mark.slow
def test_table4_goes_on_from_pretext_weights(reproduced, image_folder):
    import simclr

    weights = image_folder / "simclr-cifar10.pt"
    options = ["--epochs", 1, "--batch-size", 6, "--device", "cpu"]
    data = ["--data", image_folder, "--dataset", "cifar10", "--subset", 12]
    simclr.main([str(a) for a in [*data, *options, "--output", weights]])
    state = torch.load(weights, weights_only=True)
    # As SCAN names them, with a projection head beside.
    scan = {
        f"backbone.{name}".replace("downsample", "shortcut"): value
        for name, value in state.items()
    }
    torch.save({**scan, "contrastive_head.0.weight": torch.zeros(2)}, weights)
    options += ["--pretext", image_folder / "simclr-{}.pt", "--runs", 1]
    options += ["--dataset", "cifar10", "stl10", "--methods", "SCAN", "Our"]
    printed, files = reproduced("table4", *options, "--markdown")
    assert cells_of(printed, "Our", "paper")[0] == "83.27 (0.2)"
    assert cells_of(printed, "SCAN", "ours")[3:] == ["absent"] * 3
    assert len(files) == 2
    assert not any("error" in file for file in files)


@pytest.mark.slow
@pytest.mark.usefixtures("paper")
def test_pretext_training_goes_on_where_it_was_interrupted(image_folder, monkeypatch):
    import simclr

    def train(name, *options):
        data = ["--data", image_folder, "--dataset", "cifar10", "--device", "cpu"]
        small = ["--epochs", 2, "--batch-size", 6, "--subset", 12]
        output = ["--output", image_folder / name]
        simclr.main([str(a) for a in [*data, *small, *output, *options]])
        return torch.load(image_folder / name, weights_only=True)

    def write_and_stop(path, state):
        write(path, state)
        if "epochs" in state:
            raise KeyboardInterrupt

    expected, write = train("whole.pt"), simclr.write
    monkeypatch.setattr(simclr, "write", write_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train("parts.pt")
    monkeypatch.setattr(simclr, "write", write)
    resumed = train("parts.pt")
    for name, value in expected.items():
        assert_array_equal(resumed[name], value)
    monkeypatch.setattr(simclr, "write", None)
    train("parts.pt")  # nothing is left to do
    with pytest.raises(SystemExit):
        train("parts.pt", "--lr", 0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("paper")
def test_pretext_weights_are_loaded_by_name(tmp_path):
    import table4

    from skcce.deep import resnet18

    trained = resnet18()
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    loaded = table4.load_pretext(tmp_path / "weights.pt", resnet18())
    for name, value in loaded.state_dict().items():
        assert_array_equal(value, trained.state_dict()[name])
    torch.save({"conv1.weight": trained.conv1.weight}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=r"part\.pt has no weights for bn1\.bias"):
        table4.load_pretext(tmp_path / "part.pt", resnet18())


@pytest.mark.usefixtures("paper")
def test_contrastive_loss_is_least_for_pairs(rng):
    import simclr

    views = torch.from_numpy(rng.normal(size=(6, 4)))
    paired = simclr.contrastive_loss(views, views, 0.1)
    assert paired < simclr.contrastive_loss(views, views.roll(1, 0), 0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("paper")
def test_deep_speed_prints_ratios(monkeypatch, capsys):
    import deep_speed

    small = ["--images", 40, "--batch-size", 20, "--width", 0.05, "--repeats", 1]
    run(deep_speed, monkeypatch, *small)
    printed = capsys.readouterr().out
    assert printed.count("time ratio") == 2
    assert "pseudo-labels of a batch" in printed


@pytest.mark.usefixtures("paper")
def test_linear_speed_prints_parts(monkeypatch, capsys):
    import linear_speed

    small = ["--rows", 60, "--features", 5, 9, "--clusters", 3, "--batch-size", 20]
    run(linear_speed, monkeypatch, *small, "--repeats", 1)
    printed = capsys.readouterr().out
    assert printed.count("% for labels; torch, cpu") == 2
    assert all(float(gap) < 1e-4 for gap in re.findall(r"differ by (\S+)", printed))


@pytest.mark.slow
@pytest.mark.usefixtures("paper")
def test_deep_distributed_prints_a_time(image_folder, monkeypatch, capsys):
    import deep_distributed

    small = ["--images", 40, "--width", 0.05, "--repeats", 1]
    run(deep_distributed, monkeypatch, "--data", image_folder, *small)
    assert "1 processes: " in capsys.readouterr().out


# --- What needs a GPU -------------------------------------------------------


@pytest.fixture
def on_gpu(paper, monkeypatch):
    """Return the module; it does not look at the machine."""
    import on_gpu

    monkeypatch.setattr(on_gpu, "describe", lambda device: {"device": device})
    return on_gpu


@pytest.fixture
def call_on_gpu(on_gpu, monkeypatch, tmp_path):
    """Return what runs steps of these names and programs: main's result, the summary.

    A program gets the path of a file of its own.
    """

    def call(minutes=9, after=None, **programs):
        steps = [
            on_gpu.Step(
                name,
                ["-c", f"import sys, pathlib, time; {program}", tmp_path / name],
                on_gpu.read_pretext,
                after=(after or {}).get(name),
            )
            for name, program in programs.items()
        ]
        monkeypatch.setattr(on_gpu, "list_steps", lambda *arguments: steps)
        options = ["--device", "cpu", "--tiny", "--minutes", str(minutes)]
        output = ["--data", str(tmp_path), "--output", str(tmp_path)]
        code = on_gpu.main([*options, *output])
        return code, (tmp_path / "tiny" / "summary.md").read_text()

    return call


APPEND = "print('loss=0.5'); open(sys.argv[1], 'a').write('ran ')"


def test_on_gpu_runs_nothing_that_is_done(call_on_gpu, tmp_path):
    for _ in range(2):
        code, summary = call_on_gpu(one=APPEND, two=APPEND)
        assert code == 0
        assert "| one | done |" in summary
        assert "- loss: 0.5" in summary
        assert summary.endswith("Nothing.\n")
        assert (tmp_path / "one").read_text() == "ran "
    record = json.loads((tmp_path / "tiny" / "two.json").read_text())
    assert (record["rc"], record["state"]) == (0, "done")
    assert record["results"] == {"loss": 0.5}
    assert record["printed"] == "loss=0.5\n"
    assert record["command"].startswith("python -c")
    call_on_gpu(one=APPEND, two=f"1; {APPEND}")  # another command
    assert (tmp_path / "one").read_text() == "ran "
    assert (tmp_path / "two").read_text() == "ran ran "


def test_on_gpu_names_what_failed_and_goes_on(call_on_gpu, tmp_path):
    fails = f"{APPEND}; pathlib.Path(sys.argv[1]).with_name('mended').stat()"
    steps = {"bad": fails, "silent": "", "next": APPEND, "good": APPEND}
    code, summary = call_on_gpu(after={"next": "bad"}, **steps)
    assert code == 1
    for line in ("bad | failed", "silent | failed", "next | left", "good | done"):
        assert f"| {line} |" in summary
    assert "FileNotFoundError" in summary
    assert "- next: left, after bad" in summary
    (tmp_path / "mended").touch()
    steps["silent"] = APPEND
    code, summary = call_on_gpu(after={"next": "bad"}, **steps)
    assert (tmp_path / "bad").read_text() == "ran ran "
    assert code == 0
    assert summary.endswith("Nothing.\n")


def test_on_gpu_needs_data_and_minutes(on_gpu, tmp_path, capsys):
    options = ["--device", "cpu", "--tiny", "--output", str(tmp_path)]
    with pytest.raises(SystemExit):
        on_gpu.main([*options, "--data", str(tmp_path / "missing")])
    assert "there is no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        on_gpu.main([*options, "--data", str(tmp_path), "--minutes", "-1"])
    assert "must not be negative" in capsys.readouterr().err


def test_on_gpu_leaves_all_without_time(call_on_gpu):
    code, summary = call_on_gpu(minutes=0, one=APPEND, two=APPEND)
    assert code == 0
    assert summary.count("| left | 0 |") == 2
    assert "- two: left" in summary
    assert "--minutes 0" in summary  # the command for what is left


@pytest.mark.slow
def test_on_gpu_ends_a_step_when_time_is_over(call_on_gpu, tmp_path):
    hangs_once = (
        "import os; path = pathlib.Path(sys.argv[1]); begun = path.exists(); "
        "path.write_text(str(os.getpid())); begun or time.sleep(999); print('loss=1')"
    )
    code, summary = call_on_gpu(minutes=0.05, one=hangs_once, two=APPEND)
    assert code == 0
    assert "| one | goes on at the next call |" in summary
    assert "| two | left |" in summary
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "one").read_text()), 0)
    code, summary = call_on_gpu(one=hangs_once, two=APPEND)
    assert summary.count("| done |") == 2


def test_on_gpu_leaves_a_summary_after_an_interrupt(call_on_gpu, on_gpu, monkeypatch):
    call_on_gpu(one=APPEND, two="print(1)", minutes=0)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(on_gpu, "call", interrupt)
    code, summary = call_on_gpu(one=APPEND, two=APPEND)
    assert code == 130
    assert "| one | goes on at the next call |" in summary
    assert "| two | left |" in summary


def test_on_gpu_reads_what_steps_print(on_gpu, tmp_path):
    printed = "..F.s\nFAILED a::b - E\n1 failed, 3 passed, 2 skipped in 4.1s\n"
    assert on_gpu.read_tests(printed) == {
        "tests": "1 failed, 3 passed, 2 skipped in 4.1s",
        "errors": ["a::b - E"],
    }
    assert on_gpu.read_tests("==== 3 passed in 61.20s (0:01:01) ====")["tests"]
    assert on_gpu.read_tests("ImportError") == {}
    assert on_gpu.read_pretext("loss=2.1]\na.pt: 3 epochs\n")["epochs"] == 3
    assert on_gpu.read_pretext("a.pt: 3 epochs\n") == {"epochs": 3}
    assert on_gpu.read_runs(tmp_path, "*", "") == {}
    (tmp_path / "a.json").write_text('{"ACC": 5.0, "version": "1"}')
    (tmp_path / "b.json").write_text('{"error": "no data"}')
    assert on_gpu.read_runs(tmp_path, "*", "") == {
        "a": {"ACC": 5.0},
        "errors": ["b: no data"],
    }


@pytest.mark.slow
@pytest.mark.usefixtures("paper")
def test_on_gpu_without_a_gpu(image_folder, monkeypatch, capsys):
    import on_gpu

    folder = ["--data", str(image_folder), "--output", str(image_folder)]
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="sees no GPU"):
            on_gpu.main(folder)
    with pytest.raises(SystemExit):
        on_gpu.main([*folder, "--device", "cpu"])
    all_steps = on_gpu.list_steps
    some = {"linear_speed"}
    monkeypatch.setattr(
        on_gpu,
        "list_steps",
        lambda *arguments: [s for s in all_steps(*arguments) if s.name in some],
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code = on_gpu.main([*folder, "--device", "cpu", "--tiny"])
    printed = capsys.readouterr().out
    assert printed.endswith("Nothing.\n\n"), printed
    assert code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_constraints_prints_a_row_for_each_number(tmp_path, monkeypatch, capsys):
    import constraints

    picture = tmp_path / "constraints.png"
    options = ["--pairs", 0, 20, "--seeds", 1, "--rows", 200, "--picture", picture]
    names = ["KMeans", "CollisionClusterer"]
    run(constraints, monkeypatch, *options, "--methods", *names)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [[n, p] for n in names for p in ("0", "20")]
    assert picture.stat().st_size > 10_000


@pytest.mark.usefixtures("examples")
def test_drawn_pairs_are_of_one_class_and_of_two(rng):
    from constraints import draw_pairs

    y = np.repeat([0, 1, 2], 10)
    one, two = draw_pairs(y, 12, rng)
    assert one.shape == two.shape == (12, 2)
    assert (y[one[:, 0]] == y[one[:, 1]]).all()
    assert (one[:, 0] != one[:, 1]).all()
    assert (y[two[:, 0]] != y[two[:, 1]]).all()


@pytest.fixture
def scale(examples, monkeypatch):
    """Return the module; it measures in this process."""
    import scale

    def here(function, *arguments, threads):
        return scale.quietly(function, *arguments)

    monkeypatch.setattr(scale, "apart", here)
    return scale


@pytest.fixture
def scale_folder(tmp_path, digits):
    X, y = digits
    embeddings = (X[:300] / np.linalg.norm(X[:300], axis=1, keepdims=True)).astype("f4")
    np.savez(tmp_path / "stackoverflow_minilm.npz", X=embeddings, y=y[:300])
    images = np.kron(X.reshape(-1, 8, 8), np.ones((3, 3))).astype(np.uint8)
    parts = {"X_train": images[300:900], "X_test": images[:300]}
    np.savez(tmp_path / "mnist.npz", **parts, y_train=y[300:900], y_test=y[:300])
    return tmp_path


@pytest.mark.slow
def test_scale_prints_recall_of_searches(scale, monkeypatch, capsys):
    names = ["scikit-learn, brute", "skcce, exact", "skcce, approximate", "pynndescent"]
    monkeypatch.setitem(scale.SEARCHES, "pynndescent", ("missing", missing))
    small = ["--rows", 900, "--probes", 50, "--check", 300, "--methods", *names]
    run(scale, monkeypatch, "neighbors", *small)
    printed = capsys.readouterr().out
    rows = re.findall(r"^(s\S+, \w+) +([01]\.\d+) .* (\w+) +(\w+)$", printed, re.M)
    assert [row[0] for row in rows] == 2 * names[:3]
    assert {row[1] for row in rows} == {"1.000"}  # so few rows are in few cells
    assert {row[2:] for row in rows} == {("yes", "yes")}
    assert printed.count("ModuleNotFoundError: ") == 2


def missing(*arguments):
    raise ModuleNotFoundError("No module named 'missing'")


@pytest.mark.slow
def test_scale_prints_growth_of_fits(scale, scale_folder, monkeypatch, capsys):
    small = ["--sizes", 200, 400, "--clusters", 4]
    for data in ([], ["--data", scale_folder]):
        run(scale, monkeypatch, "fit", *small, *data)
        printed = capsys.readouterr().out
        assert printed.count("\nCollisionClusterer  ") == 2
        assert printed.count("to the power of") == 2


@pytest.mark.slow
def test_scale_compares_small_fits_and_streams(
    scale, scale_folder, monkeypatch, capsys
):
    options = ["--data", scale_folder, "--seeds", 2]
    names = ["MiniBatchKMeans", "CollisionClusterer"]
    run(scale, monkeypatch, "small", *options, "--methods", *names)
    assert capsys.readouterr().out.count(" ± ") == 2
    run(scale, monkeypatch, "stream", *options, "--passes", 1, 2)
    printed = capsys.readouterr().out
    for name in names:
        for part in ("fit", "1 pass", "2 passes"):
            assert printed.count(f"{name}, {part} ") == 2


@pytest.mark.slow
def test_scale_prints_rates_of_predictions(scale, monkeypatch, capsys):
    run(scale, monkeypatch, "predict", "--rows", 300, "--train", 200, "--clusters", 3)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == [
        "KMeans",
        "features=None",
        "features='spectral'",
    ]
    assert all(float(row[1]) > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("examples")
def test_scale_measures_in_processes_of_so_many_threads():
    import scale

    assert scale.apart(os.getenv, "OMP_NUM_THREADS", threads=2) == "2"
    assert scale.apart(os.getpid, threads=1) != os.getpid()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.usefixtures("examples")
def test_text_prints_a_row_for_every_method(tmp_path, monkeypatch, capsys, rng):
    import text

    rows = [
        f"{' '.join(f'topic{k}word{i}' for i in rng.integers(100, size=8))},{k}"
        for k in rng.integers(3, size=300)
    ]
    with gzip.open(tmp_path / "stackoverflow.csv.gz", "wt") as file:
        file.write("\n".join(["text,y", *rows]))
    run(text, monkeypatch, "--data", tmp_path, "--seeds", 1)
    first, _, *table = capsys.readouterr().out.splitlines()
    assert first.startswith("X: 300 x ")
    assert [line[:24].strip() for line in table] == list(text.METHODS)
    assert all(len(line[24:].split()) == 8 for line in table)
