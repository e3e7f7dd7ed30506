import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


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
    import long_tail

    path = tmp_path / "digits.npz"
    np.savez(path, X=digits[0][:500], y=digits[1][:500])
    run(choose_start, monkeypatch, path, "--starts", 6)
    output = capsys.readouterr().out
    assert "final loss: rank correlation with ARI" in output
    run(long_tail, monkeypatch, path, "--ratio", 4)
    output = capsys.readouterr().out
    assert "prior=true shares" in output
    np.savez(path, pixels=digits[0])
    with pytest.raises(SystemExit):
        run(long_tail, monkeypatch, path)
