"""One file says what is done; whatever is wrong with it is said in one sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dlslicer_geo import config
from dlslicer_geo.errors import ConfigError

DEMO = Path(__file__).parents[1] / "experiments" / "demo" / "config.yaml"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_relative_paths_count_from_the_yaml_file_and_overrides_from_here(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "data: {root: scenes, cities: ../c.csv}\n")
    read = config.load(path)
    assert read.data.root == str(tmp_path / "scenes")
    assert read.data.cities == str(tmp_path.parent / "c.csv")
    assert config.load(path, ["--data.root", "x/y"]).data.root == str(Path("x/y").absolute())


def test_what_is_dumped_is_read_back_equal(tmp_path: Path) -> None:
    read = config.load(DEMO, ["--chips.min_valid", "0.25", "--split.allow_empty", "[bishop]"])
    assert config.load(write(tmp_path / "b.yaml", config.dump(read))) == read


def test_overrides_win_over_the_file() -> None:
    read = config.load(
        DEMO, ["--chips.size=512", "--model.weights", "false", "--fit.early_stopping", "3", "--seed", "7"]
    )
    assert (read.chips.size, read.model.weights, read.fit.early_stopping, read.seed) == (512, False, 3, 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chps: {size: 3}\n", "unknown key 'chps'; known ones are data, chips, split"),
        ("data: {root: x}\nchips: {sizee: 3}\n", "unknown key chips.sizee; known ones are size, stride, metres"),
        ("data: {root: x}\nchips: {size: big}\n", "chips.size"),
        ("data: {root: x}\nsplit: {kind: chance}\n", "split.kind"),
        ("data: {root: x}\nchips: 7\n", "chips holds 7: give the keys size"),
        ("chips: {size: 256}\n", "data.root"),
        ("- a\n", "holds no sections"),
        ("data: {root: [\n", "is no YAML"),
        ("data: {root: x}\nchips: {size: 64, stride: 65}\n", "chips.stride is 65"),
        ("data: {root: x}\nsplit: {fractions: [0.5, 0.5, 0.5]}\n", "sum to 1"),
        ("data: {root: x}\nsplit: {block_m: -1}\n", "split.block_m is -1"),
        ("data: {root: x}\nprobe: {chips: 0}\n", "probe.chips is 0"),
        ("data: {root: x}\nprobe: {changes: [grey, grey]}\n", "name each once"),
        ("data: {root: x}\nchips: {min_valid: 2}\n", "chips.min_valid is 2"),
        ("data: {root: !!python/object/apply:os.system ['true']}\n", "is no YAML"),
    ],
)
def test_whatever_is_wrong_with_a_file_is_one_sentence_that_names_it(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        config.load(write(tmp_path / "bad.yaml", text))
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--chips.sizze", "3"], "--chips.size, --chips.stride"),
        (["--chip.size", "3"], "known sections are data, chips"),
        (["--chips.size", "x"], "chips.size"),
        (["--chips.size"], "chips.size"),
        (["stray"], "stray"),
    ],
)
def test_whatever_is_wrong_with_an_override_is_one_sentence(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.load(DEMO, words)
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_missing_file_and_a_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist|is a folder"):
        config.load(tmp_path / name)


def test_every_key_is_described_in_help() -> None:
    for section, kind in config.SECTIONS.items():
        described = dict(config.describe(section))
        assert set(described) == {f.name for f in dataclasses.fields(kind)}
        assert all(not text.startswith(" (") for text in described.values()), section
