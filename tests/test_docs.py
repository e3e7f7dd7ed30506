"""All that README and guide show is run, page by page, from top to bottom."""

import contextlib
import doctest
import inspect
import re
import textwrap
import warnings
from pathlib import Path
from unittest import mock

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images, make_blobs
from sklearn.exceptions import ConvergenceWarning
from torchvision.models import get_model, get_weight

from skcce import CollisionClusterer, _neighbors, _starts, _training

ROOT = Path(__file__).parent.parent
# What begins a block of code without prompts, and how far it goes.
FENCE = re.compile(r"^```python\n(?!>>>)(.*?)^```$", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(r"^\.\. code-block:: python\n\n((?: {4}.*\n|\n)+)", re.MULTILINE)
# How many blocks and prompts there are at least, so that none is missed unnoticed.
PAGES = {
    "README.md": (4, 14),
    "docs/index.rst": (1, 0),
    "docs/start.rst": (3, 0),
    "docs/beside_kmeans.rst": (2, 39),
    "docs/guide.rst": (0, 23),
    "docs/texts.rst": (4, 8),
    "docs/images.rst": (7, 0),
    "docs/choosing.rst": (2, 0),
    "docs/labels.rst": (6, 0),
    "docs/noisy_labels.rst": (0, 17),
    "docs/constraints.rst": (0, 13),
    "docs/training.rst": (1, 20),
    "docs/deep.rst": (3, 12),
    "docs/export.rst": (0, 18),
    "docs/scale.rst": (0, 15),
    "docs/methods.rst": (0, 6),
    "docs/contributing.rst": (1, 27),
}


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory):
    """Hold weights where torchvision looks for those that it has downloaded."""
    folder = tmp_path_factory.mktemp("torch")
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    for weights in ("ResNet50_Weights.IMAGENET1K_V2", "ResNet18_Weights.IMAGENET1K_V1"):
        name = Path(get_weight(weights).url).name
        with torch.random.fork_rng():
            network = get_model(weights.split("_")[0].lower(), weights=None)
        torch.save(network.state_dict(), folder / "hub" / "checkpoints" / name)
    return folder


@pytest.fixture
def reader(tmp_path, torch_home, monkeypatch):
    """Be a reader with photos, a table, a home of their own, and little time."""
    for i in range(16):
        kind = i % 2
        folder = tmp_path / "photos" / ("temple" if kind else "flower")
        folder.mkdir(parents=True, exist_ok=True)
        crop = load_sample_images().images[1 - kind][5 * i : 5 * i + 120, :160]
        Image.fromarray(crop).save(folder / f"{i:02d}.jpg")
    rows, _ = make_blobs(300, n_features=3, random_state=0)
    table = {"header": "number,age,income,visits", "delimiter": ",", "comments": ""}
    numbered = np.column_stack([np.arange(300), rows])
    np.savetxt(tmp_path / "customers.csv", numbered, **table)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    matplotlib.use("Agg")
    yield {
        "images": np.random.default_rng(0).integers(0, 255, (12, 28, 28), np.uint8),
        "new_images": np.zeros((2, 28, 28), np.uint8),
        "y": np.arange(12) % 10,
    }
    plt.close("all")


def pieces(text):
    """Yield the texts, and the blocks of code without prompts, of a page."""
    blocks = sorted(
        [*FENCE.finditer(text), *DIRECTIVE.finditer(text)], key=lambda m: m.start()
    )
    end = 0
    for block in blocks:
        yield text[end : block.start()], textwrap.dedent(block[1])
        end = block.end()
    yield text[end:], ""


@contextlib.contextmanager
def little_time(names):
    """Leave few digits to a block of code: it shows nothing that depends on them."""
    whole = load_digits(return_X_y=True)
    few = [array[:300] for array in whole]
    for name in ("X", "y"):
        if len(names.get(name, ())) == len(whole[0]):
            names[name] = names[name][:300]
    with mock.patch("sklearn.datasets.load_digits", return_value=few):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_code_of_a_page_runs(page, reader):
    if page == "docs/deep.rst":
        pytest.importorskip("sklearn.callback", reason="the page has callbacks")
    runner, names, n_blocks = doctest.DocTestRunner(), reader, 0
    for text, block in pieces((ROOT / page).read_text()):
        test = doctest.DocTestParser().get_doctest(text, names, page, page, 0)
        runner.run(test, clear_globs=False)
        names.update(test.globs)
        with warnings.catch_warnings(), little_time(names):
            # Of 16 photos there are no ten clusters.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", message="The least populated class")
            block = re.sub(r"max_iter=50\b", "max_iter=1", block)
            exec(compile(block, page, "exec"), names)
        n_blocks += bool(block)
    assert runner.failures == 0
    assert n_blocks >= PAGES[page][0]
    assert runner.tries >= PAGES[page][1]


def test_texts_have_the_steps_of_the_walk():
    number = ["no", "one", "two", "three", "four", "five"][_neighbors.N_STEPS]
    guide, training = (
        (ROOT / "docs" / page).read_text() for page in ("guide.rst", "training.rst")
    )
    for text in (guide, training, CollisionClusterer.__doc__):
        assert f"{number} steps" in text
    assert rf"\alpha = {_neighbors._LAZINESS}" in training


def test_docstring_has_the_values_of_auto():
    doc = inspect.getdoc(CollisionClusterer)
    for name, values in CollisionClusterer.auto.items():
        entry = rf"^{name} : .*\n((?: {{4}}.*\n)+)"
        text = re.search(entry, doc, re.MULTILINE)[1]
        text = " ".join(text.partition('"auto" ')[2].split())
        for value in values:
            assert re.search(rf"(?<![\d.]){re.escape(str(value))}(?!\d)", text), name


def test_docstring_has_the_constants_of_the_loop():
    text = " ".join(CollisionClusterer.__doc__.split())
    epochs, steps = _starts._TRIAL_EPOCHS, _starts._TRIAL_STEPS
    assert f"trained for {epochs} epochs, or about {steps} steps" in text
    assert f"Stop after {_training._PATIENCE} consecutive epochs" in text


def test_links_of_the_readme_lead_somewhere():
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_no_page_installs_from_an_index():
    """There is nothing there yet."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.rst")]
    for page in pages:
        assert not re.search(r"install [\"']?skcce", page.read_text()), page


def test_the_harness_sees_a_broken_block():
    page = "Text\n\n.. code-block:: python\n\n    1 / 0\n\nMore\n```python\n2\n```\n"
    assert [code for _, code in pieces(page)] == ["1 / 0\n\n", "2\n", ""]


def test_readme_goes_from_a_folder_to_a_montage_in_under_ten_lines():
    blocks = [code for _, code in pieces((ROOT / "README.md").read_text())]
    (block,) = [code for code in blocks if "rglob" in code]
    assert "MontageDisplay" in block
    assert len([line for line in block.splitlines() if line.strip()]) < 10
