import inspect
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator

import skcce
import skcce.deep
import skcce.features
import skcce.losses
import skcce.metrics
import skcce.model_selection

ROOT = Path(__file__).parent.parent


def imported_by(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(output.split())


@pytest.mark.slow
def test_import_is_light():
    loaded = imported_by(
        "import skcce, skcce.metrics, skcce.losses, skcce.model_selection, skcce.plot"
    )
    assert not loaded & {"torch", "torchvision", "matplotlib", "tqdm"}
    # The test can fail.
    assert "matplotlib" in imported_by("import skcce, matplotlib")


@pytest.mark.slow
def test_a_linear_fit_needs_no_torch():
    statement = (
        "import numpy as np, skcce; X = np.random.default_rng(0).normal(size=(60, 2)); "
        "skcce.CollisionClusterer(2, tol=1, random_state=0).fit(X).predict(X)"
    )
    assert not imported_by(statement) & {"torch", "torchvision", "matplotlib"}


@pytest.mark.slow
@pytest.mark.parametrize("module", ["skcce.deep", "skcce.features"])
def test_modules_with_networks_say_what_to_install(module):
    code = f"import sys, skcce; sys.modules['torch'] = None; import {module}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert "pip install torch torchvision" in result.stderr


PUBLIC = [
    getattr(module, name)
    for module in (
        skcce,
        skcce.deep,
        skcce.features,
        skcce.losses,
        skcce.metrics,
        skcce.model_selection,
    )
    for name in module.__all__
]


@pytest.mark.parametrize(
    "thing", PUBLIC, ids=lambda thing: getattr(thing, "__name__", None)
)
def test_documented_defaults_are_the_defaults(thing):
    if not callable(thing) or not hasattr(thing, "__name__"):
        pytest.skip("a scorer has no signature")
    if isinstance(thing, type) and not issubclass(thing, BaseEstimator):
        pytest.skip("a named tuple is not called by users")
    for name, parameter in inspect.signature(thing).parameters.items():
        entry = rf"^ *(?:\w+, )*{name}(?:, \w+)* : (.+)$"  # maybe of several
        line = re.search(entry, inspect.getdoc(thing), re.MULTILINE)
        assert line, f"{name} is not documented"
        default = re.search(r"default=(.+)$", line[1])
        if parameter.default is parameter.empty:
            assert default is None
        else:
            assert default, f"the default of {name} is not documented"
            assert eval(default[1]) == parameter.default


@pytest.mark.slow
def test_wheel_runs_outside_the_checkout(tmp_path):
    def run(*command, **kwargs):
        command = [sys.executable, *command]
        return subprocess.run(command, check=True, capture_output=True, **kwargs)

    run("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"skcce-{skcce.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "skcce/py.typed" in names
    assert not [name for name in names if "test" in name or "example" in name]
    site = {"PYTHONPATH": str(tmp_path / "site")}
    output = run(ROOT / "tests" / "smoke.py", env=os.environ | site, text=True).stdout
    assert output.startswith(f"skcce {skcce.__version__} works: {tmp_path}")


def test_version_is_the_same_everywhere():
    for file, entry in {
        "CITATION.cff": f"version: {skcce.__version__}",
        "CHANGELOG.md": f"## {skcce.__version__}",
        "docs/hosting/recipe.yaml": f'version: "{skcce.__version__}"',
    }.items():
        assert entry in (ROOT / file).read_text(), file


def test_recipe_and_matrix_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = (ROOT / "docs/hosting/recipe.yaml").read_text()
    needed = re.findall(r"^    - ([\w-]+) (>=[\d.]+)$", recipe, re.MULTILINE)
    assert sorted("".join(pair) for pair in needed) == project["dependencies"]

    versions = {
        text.rpartition(" ")[2] for text in project["classifiers"] if ":: 3." in text
    }
    assert project["requires-python"] == f">={min(versions)}"
    for file, line in {
        "Makefile": "VERSIONS ",
        "docs/hosting/tests.yml": " +python: ",
    }.items():
        line = re.search(f"^{line}.*", (ROOT / file).read_text(), re.MULTILINE)[0]
        assert set(re.findall(r"\b3\.\d+", line)) == versions, file
