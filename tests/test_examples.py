import sys
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.usefixtures("examples")
def test_compare_on_reads_files_and_folders(tmp_path, digits, monkeypatch, capsys):
    import compare_on

    X, y = digits[0][:300], digits[1][:300]
    np.savez(tmp_path / "a_halves.npz", X=X.astype(np.float16), y=y)
    images = X.reshape(-1, 8, 8).astype(np.uint8)
    np.savez(
        tmp_path / "b_split.npz",
        X_train=images,
        y_train=y,
        X_test=images[:100],
        y_test=y[:100],
    )
    np.savez(tmp_path / "c_other.npz", pixels=images)
    methods = ["--methods", "KMeans", "Ward", "CollisionClusterer"]
    run(compare_on, monkeypatch, tmp_path, "--seeds", 2, "--normalize", *methods)
    output = capsys.readouterr().out
    assert "a_halves: 300 x 64, 10 clusters" in output
    assert "b_split: 100 x 64, 10 clusters" in output
    assert "c_other.npz: no X and y, skipped" in output
    assert output.count("CollisionClusterer") == 2
    with pytest.raises(SystemExit):
        run(compare_on, monkeypatch, tmp_path / "missing.npz")


@pytest.mark.usefixtures("examples")
def test_demo_draws_its_picture(tmp_path, monkeypatch, capsys):
    import demo

    monkeypatch.setattr(demo, "N_SEEDS", 1)
    monkeypatch.setattr(demo, "DEFAULT_METHODS", ["KMeans", "CollisionClusterer"])
    run(demo, monkeypatch, "--output", tmp_path / "demo.png")
    assert capsys.readouterr().out.count("CollisionClusterer") == 3
    assert (tmp_path / "demo.png").stat().st_size > 50_000


@pytest.mark.usefixtures("examples")
def test_studies_run_on_a_file(tmp_path, digits, monkeypatch, capsys):
    import choose_start
    import em_iterations
    import long_tail

    path = tmp_path / "digits.npz"
    np.savez(path, X=digits[0][:500], y=digits[1][:500])
    run(choose_start, monkeypatch, path, "--starts", 6)
    output = capsys.readouterr().out
    assert "final loss: rank correlation with ARI" in output
    run(em_iterations, monkeypatch, path, "--iterations", 1, 3, "--seeds", 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["EM", "1", "3"]
    run(long_tail, monkeypatch, path, "--ratio", 4)
    output = capsys.readouterr().out
    assert "prior=true shares" in output
    np.savez(path, pixels=digits[0])
    with pytest.raises(SystemExit):
        run(long_tail, monkeypatch, path)


@pytest.mark.usefixtures("paper")
def test_table_1_has_the_papers_layout(tmp_path, monkeypatch, capsys):
    import table1

    picture = tmp_path / "gap.png"
    small = ["--n", 60, "--clusters", 2, 5, "--max-seconds", 0.2]
    run(table1, monkeypatch, *small, "--picture", picture)
    output = capsys.readouterr().out
    for row in ("PGD(eta1)", "PGD(eta3)", "PGD (best)", "EM", "exact"):
        assert f"\n{row} " in output
    assert picture.stat().st_size > 30_000


@pytest.mark.usefixtures("paper")
def test_ratios_are_printed_beside_their_goals(monkeypatch, capsys):
    import goals

    run(goals, monkeypatch, "--n", 60, "--large-k", 5, "--max-seconds", 0.2)
    output = capsys.readouterr().out
    assert output.count("(goal >= ") >= 8
    assert output.count("(goal <= 6x: ") == 2


@pytest.mark.usefixtures("paper")
def test_peers_are_compared_or_skipped(monkeypatch, capsys):
    import peers

    size = ["--n", 60, "--clusters", 3, "--lam", 1, "--max-seconds", 1]
    run(peers, monkeypatch, *size)
    output = capsys.readouterr().out
    assert "CLARABEL" in output or "cvxpy is not installed" in output
    assert "Sinkhorn" in output or "POT is not installed" in output


@pytest.mark.usefixtures("paper")
def test_hard_problems_have_no_silent_miss(monkeypatch, capsys):
    import hard_problems

    run(hard_problems, monkeypatch, "--problems", 40)
    output = capsys.readouterr().out
    assert output.count("0 say that they did not; 0 silent misses") == 2
    # The recomputed gap does tell: of wrong labels it is large.
    proba, lam, prior = hard_problems.hard_problem(0)
    wrong = np.full_like(proba, 1 / proba.shape[1])
    price = np.zeros(len(prior))
    assert hard_problems.recompute(proba, wrong, price, lam, prior, False)[1] > 1e-3


@pytest.mark.usefixtures("paper")
def test_scaling_fits_a_slope(monkeypatch, capsys):
    import scaling

    run(scaling, monkeypatch, "--samples", 100, 200, "--clusters", 2, "--n", 100)
    assert capsys.readouterr().out.count("time ~ n^") == 2
