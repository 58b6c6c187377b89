# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
import argparse

import pytest

torch = pytest.importorskip("torch")

from gr00t_test_support.builders import make_embodiment, make_frames  # noqa: E402
from gr00t_training.cli import finetune  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.settings import add_arguments  # noqa: E402
from gr00t_training.train.adapters import PARTS  # noqa: E402
from gr00t_training.train.settings import SECTIONS, FinetuneSettings, Optimizer, Quantization, TrainerSettings  # noqa: E402

FEATURES = {"feature_cache": "auto", "augment_images": False, "tune_visual": False}
FSDP = {"parallel": "fsdp"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 4, "accumulate": 3}, "batch_size 4 cannot be computed in 3 equal parts"),
        ({"validation_share": 0.1, "validation_episodes": ("3",)}, "--validation-share 0"),
        ({"image_views": 2, "augment_images": False}, "there is nothing to vary"),
        ({"dora": True}, "dora: is of adapters, but lora_rank is 0"),
        ({"lora_alpha": 8.0}, "lora_alpha: is of adapters, but lora_rank is 0"),
        ({"lora_dropout": 0.1}, "lora_dropout: is of adapters"),
        ({"lora_targets": ("llm",)}, "lora_targets: is of adapters"),
        ({"lora_rank": 4, "lora_targets": ()}, "lora_targets: none given"),
        ({"lora_rank": 4, "lora_targets": ("projector",)}, "'projector' gets no adapters"),
        ({"lora_rank": 4, "tune_llm": True}, "the language model gets adapters, but tune_llm"),
        ({"lora_rank": 4, "tune_top_llm_layers": 1}, "the language model gets adapters, but tune_llm"),
        ({"lora_rank": 4, **FEATURES}, "lora_targets has llm and visual, whose features change"),
        ({"lora_rank": 4, **FSDP}, "fsdp and lora_rank do not go together"),
        ({**FEATURES, **FSDP}, "fsdp and feature_cache do not go together"),
        ({"quantize_base": Quantization.NF4, **FSDP}, "fsdp and quantize_base do not go together"),
        ({"optimizer": Optimizer.ADAMW8BIT, **FSDP}, "fsdp and optimizer adamw8bit do not go together"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_without_a_model(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainerSettings(**settings)


def test_adapters_of_fresh_weights_are_refused():
    with pytest.raises(ValueError, match="adapters need a saved checkpoint"):
        FinetuneSettings(output="run", variant="n1_compact", trainer=TrainerSettings(lora_rank=4))


def test_adapters_of_the_head_go_together_with_stored_features():
    assert TrainerSettings(lora_rank=4, lora_targets=("diffusion",), **FEATURES).lora_targets == ("diffusion",)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    embodiment, root = make_embodiment(), tmp_path_factory.mktemp("recorded")
    with DatasetWriter(root, embodiment) as writer:
        episode = writer.start_episode("lift the cube")
        for frame in make_frames(embodiment, 5):
            episode.add_frame(frame)
        episode.save()
    return root


@pytest.mark.parametrize("more", [[], ["--check"], ["--no-preflight"]], ids=["run", "check", "no preflight"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tune-top-llm-layers 99", "tune_top_llm_layers is 99, the model keeps 3 layers"),
        ("--rtc-max-delay 99", "rtc_max_delay is 99, a chunk of embodiment"),
        ("--quantize-base nf4 --tune-visual", "quantize_base: all layers of the backbone train"),
        ("--validation-episodes 77", "episodes '77': not all of them are in the dataset"),
        ("--validation-share 0.5", "PATH: 1 episodes to train on, 1 of them held out for validation, none is left"),
        ("--device meta", "device 'meta': not available (the model runs on cpu and cuda)"),
        ("--device gpu7", "device 'gpu7': not available"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_one_line_before_it_is_loaded(
    recorded, tmp_path, capsys, monkeypatch, words, message, more
):
    def load(*_, **__):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("gr00t_training.train.finetune._model", load)
    output = tmp_path / "run"
    given = ["--dataset", recorded, "--output", output, "--variant", "n1_compact", *words.split(), *more]
    assert finetune.main([str(word) for word in given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gr00t_finetune: error: {message.replace('PATH', str(recorded))}")
    assert not output.exists()


def test_the_help_groups_all_options_of_the_trainer():
    parser = argparse.ArgumentParser()
    add_arguments(parser, TrainerSettings, sections=SECTIONS)
    groups = {group.title: group._group_actions for group in parser._action_groups[2:]}
    assert list(groups) == list(SECTIONS.values())
    assert sum(map(len, groups.values())) == len(TrainerSettings.__dataclass_fields__)
    assert {action.dest for action in groups["caches"]} >= {"frame_cache", "feature_cache_gib"}


def test_the_help_names_the_parts_that_adapters_can_have():
    text = TrainerSettings.__dataclass_fields__["lora_targets"].metadata["description"]
    assert all(part in text or part in TrainerSettings().lora_targets for part in PARTS)
