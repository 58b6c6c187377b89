# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import argparse
from pathlib import Path

import pytest
import yaml

torch = pytest.importorskip("torch")

from gr00t_training.cli import finetune  # noqa: E402
from gr00t_training.errors import ConfigError  # noqa: E402
from gr00t_training.settings import from_arguments  # noqa: E402
from gr00t_training.train.recipes import read_recipe, recipes  # noqa: E402
from gr00t_training.train.settings import FinetuneSettings, TrainerSettings  # noqa: E402


def printed(capsys, *words):
    assert finetune.main([*words, "--print-config"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", list(recipes()))
def test_shipped_recipes_are_valid_and_say_what_they_are_for(name):
    values = read_recipe(name)
    assert values
    options = argparse.Namespace(output="run")
    trainer = from_arguments(TrainerSettings, options, given=values)
    from_arguments(FinetuneSettings, options, given={**values, "trainer": trainer})
    assert recipes()[name].read_text().startswith("# ")


def test_the_documentation_lists_every_recipe():
    page = (Path(__file__).parents[2] / "docs/finetune.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in recipes())


def test_the_documentation_says_what_trains_by_default():
    page = (Path(__file__).parents[2] / "docs/finetune.md").read_text(encoding="utf-8")
    parts = ("tune_llm", "tune_visual", "tune_projector", "tune_diffusion_model")
    assert [name for name in parts if not getattr(TrainerSettings(), name)] == ["tune_llm"]
    assert "by default all but the language\nmodel" in page


def test_options_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("variant: n1_compact\nbatch_size: 8\nmax_steps: 7\n")
    text = printed(capsys, "--output", "run", "--recipe", str(file), "--batch-size", "4")
    found = yaml.safe_load(text)
    assert (found["variant"], found["batch_size"], found["max_steps"]) == ("n1_compact", 4, 7)
    assert found["seed"] == TrainerSettings().seed


def test_printed_settings_are_a_recipe_for_the_same_settings(tmp_path, capsys):
    file = tmp_path / "printed.yaml"
    words = ("--dataset", str(tmp_path / "data"), "--variant", "n1_compact", "--learning-rate", "3e-5", "--no-bf16")
    file.write_text(printed(capsys, "--output", "run", *words))
    assert printed(capsys, "--output", "other", "--recipe", str(file)) == file.read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bath_size: 4\n", ":1: unknown key 'bath_size'; did you mean 'batch_size'?"),
        ("# x\nbatch_size: 0\n", ":2: batch_size is 0, expected 1 to 65536"),
        ("batch_size: many\n", ":1: batch_size: expected a whole number, found 'many'"),
        ("output: run\n", ":1: unknown key 'output'"),
        ("- batch_size\n", ":1: expected a mapping of keys to values, found a list"),
    ],
)
def test_wrong_recipes_are_refused_by_line(tmp_path, text, expected):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_recipe(file)
    assert f"{file}{expected}" in str(raised.value)


def test_an_unknown_recipe_names_the_known_ones(capsys):
    assert finetune.main(["--output", "run", "--recipe", "lora-24"]) == 2
    assert "no recipe 'lora-24' (found: " in capsys.readouterr().err


def test_options_decide_before_a_recipe_is_found_contradictory(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("feature_cache: features\ntune_visual: false\n")  # augments images by default
    words = ("--output", "run", "--recipe", str(file))
    assert yaml.safe_load(printed(capsys, *words, "--image-views", "4"))["image_views"] == 4
    assert finetune.main([*words, "--print-config"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: feature_cache is given and images change" in line


def test_adapters_of_a_recipe_need_a_base(capsys):
    assert finetune.main(["--output", "run", "--recipe", "lora-24gb", "--variant", "n1_compact"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a fresh variant, which needs no adapters" in line
    assert finetune.main(["--output", "run", "--recipe", "lora-24gb", "--variant", "n1_compact", "--no-tune-llm"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: lora_rank: adapters need a saved checkpoint" in line
