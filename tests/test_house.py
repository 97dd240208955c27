"""The contracts of the house: a public surface that is held to, and light corridors."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dlslicer_geo as dl
from dlslicer_geo.cli.verbs import VERBS

PACKAGE = Path(dl.__file__).parent


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running ``code``."""
    script = f"import sys\n{code}\nprint('|'.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split("|"))


def test_every_public_name_can_be_had_and_has_a_docstring() -> None:
    for name in dl.__all__:
        value = getattr(dl, name)
        assert name == "__version__" or value.__doc__, name
        assert name == "__version__" or not isinstance(value, type(sys)), f"{name} is a module"


def test_functions_named_like_their_rooms_stay_functions_after_the_room_is_imported() -> None:
    import dlslicer_geo.predict
    import dlslicer_geo.webmap  # noqa: F401

    assert callable(dl.predict)
    assert callable(dl.webmap)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dl.nothing  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import dlslicer_geo") & {
        "torch",
        "rasterio",
        "geopandas",
        "pandas",
        "numpy",
        "jsonargparse",
    }


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_loads_no_heavy_library(verb: str) -> None:
    code = f"from dlslicer_geo.cli import main\ntry: main(['{verb}', '--help'])\nexcept SystemExit: pass"
    assert not loaded_by(code) & {"torch", "rasterio", "geopandas", "pandas", "jsonargparse", "odc"}


WITHOUT_TORCH = (
    "scenes", "chips", "splits", "scores", "report", "webmap", "layers", "similarity", "predict", "pipeline",
    "pipeline.studies", "pipeline.checks",
)  # fmt: skip


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_stations_without_a_network_never_load_torch(room: str) -> None:
    assert "torch" not in loaded_by(f"import dlslicer_geo.{room}")


HALL = {"errors", "types", "files", "pixels", "colours"}
CORRIDOR = {"pipeline", "cli", "config", "doctor", "download", "hub", "serve", "__init__"}


def test_rooms_import_only_the_hall() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir()} - HALL - CORRIDOR
    assert {"scenes", "splits", "scores", "model", "probes", "report"} <= rooms
    doors = [
        f"{path.relative_to(PACKAGE)} opens {name}"
        for path in PACKAGE.rglob("*.py")
        if (room := path.relative_to(PACKAGE).parts[0].removesuffix(".py")) in rooms
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dlslicer_geo")
        for name in (node.module or "").split(".")[1:2] or [alias.name for alias in node.names]
        if name in rooms - {room}
    ]
    assert not doors


def test_files_are_short_and_say_first_what_goes_in_and_out() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 350, f"{path.name} is too long"
        assert ast.get_docstring(ast.parse(text)), f"{path.name} has no first line"


def test_functions_are_short() -> None:
    long = [
        f"{path.name}:{node.name} {length}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno - len((ast.get_docstring(node) or "").splitlines())) > 48
    ]
    assert not long


def test_the_example_of_the_readme_names_only_public_things() -> None:
    text = (PACKAGE.parent / "README.md").read_text()
    block = text.split("```python\n", 1)[1].split("```", 1)[0]
    used = {
        node.attr
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "dl"
    }
    assert len(used) >= 10
    assert used <= set(dl.__all__)
