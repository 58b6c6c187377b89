# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The public interface: its names, their parameters and docstrings, and what they import."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

import gr00t_training
from gr00t_test_support.builders import make_embodiment, make_frames

PARAMETERS = {
    "ActionChunk": "actions start_ns step_ns timings_s",
    "DatasetWriter": "path embodiment video version has_source",
    "DatasetWriter.start_episode": "self task open_video",
    "Embodiment": (
        "name tag fps state action video language robot_type action_horizon video_history state_history model depth"
    ),
    "EpisodeDataset": "path",
    "EvaluationSettings": (
        "checkpoint server dataset embodiment tokenizer baseline compare episodes steps action_horizon modality_keys "
        "tests denoising_steps seed device output"
    ),
    "FinetuneSettings": (
        "output dataset data embodiment base_model variant tokenizer statistics resume preflight trainer"
    ),
    "Frame": "tick_ns state action images task ages_ns filled depth command_source",
    "Observation": "images state instruction stamp_ns",
    "Policy": "checkpoint model denoising_steps seed uses_graphs",
    "Policy.from_checkpoint": (
        "path embodiment device denoising_steps seed dtype attention tokenizer data_config fps uses_graphs"
    ),
    "Policy.infer": "self observation continuation",
    "Policy.infer_batch": "self observations continuations noise",
    "Policy.reset": "self seed",
    "PolicyClient": "embodiment host port wire token timeout_s images timeout_name checkpoint",
    "TrainerSettings": (
        "max_steps batch_size learning_rate weight_decay warmup_ratio beta1 beta2 max_grad_norm ema_decay seed "
        "state_dropout rtc_max_delay tune_llm tune_visual tune_projector tune_diffusion_model tune_vlln "
        "tune_top_llm_layers lora_rank lora_alpha lora_dropout lora_targets dora shuffle num_workers augment_images "
        "augment_on_gpu image_views frame_cache frame_cache_gib feature_cache feature_cache_gib validation_share "
        "validation_episodes validate_every validation_samples save_steps keep_checkpoints log_every report_to "
        "device parallel accumulate optimizer quantize_base checkpoint_activations bf16 cuda_graphs compile_blocks"
    ),
    "evaluate": "settings",
    "finetune": "settings should_stop",
    "load_embodiment": "name_or_path",
}


def test_every_public_name_is_listed_here():
    assert {name.partition(".")[0] for name in PARAMETERS} == set(gr00t_training.__all__)
    assert set(gr00t_training.__all__) <= set(dir(gr00t_training))
    assert gr00t_training.__all__ == sorted(gr00t_training.__all__)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_docstrings(name):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    found = gr00t_training
    for part in name.split("."):
        found = getattr(found, part)
    assert list(inspect.signature(found).parameters) == PARAMETERS[name].split()
    assert inspect.getdoc(found).splitlines()[0].endswith(".")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Controller"):
        gr00t_training.Controller  # noqa: B018


@pytest.mark.parametrize(
    ("used", "absent"),
    [
        ("Frame", ("torch", "av", "pyarrow")),
        ("EpisodeDataset, gr00t_training.DatasetWriter", ("torch",)),
        ("FinetuneSettings", ("torch", "av")),
        ("PolicyClient", ("torch", "av", "pyarrow")),
    ],
    ids=["values", "datasets without torch", "settings", "client"],
)
def test_a_name_imports_only_its_own_libraries(used, absent):
    blocked = "; ".join(f"sys.modules['{name}'] = None" for name in absent)
    code = f"import sys; {blocked}; import gr00t_training; gr00t_training.{used}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_dataset_is_a_sequence_of_episodes(tmp_path):
    embodiment = make_embodiment()
    with gr00t_training.DatasetWriter(tmp_path, embodiment) as writer:
        for count in (3, 5):
            episode = writer.start_episode(f"task of {count}")
            for frame in make_frames(embodiment, count, seed=count, task=""):
                episode.add_frame(frame)
            episode.save()
    dataset = gr00t_training.EpisodeDataset(tmp_path)
    assert [len(episode) for episode in dataset] == [3, 5]
    assert (len(dataset), dataset[-1].index, dataset[1].tasks) == (2, 1, ("task of 5",))
    assert dataset[1].task() == "task of 5"
    np.testing.assert_array_equal(dataset[1].state("arm"), dataset.state(1, "arm"))
    np.testing.assert_array_equal(dataset[0].action("gripper"), dataset.action(0, "gripper"))
    assert dataset[1].images("front").shape == (5, 32, 48, 3)
    np.testing.assert_array_equal(dataset[1].images("front", [4]), dataset.images(1, "front", [4]))
    with pytest.raises(IndexError):
        dataset[2]
