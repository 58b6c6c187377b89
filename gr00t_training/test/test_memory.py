# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The estimate of memory against what `bench/train.py` measured on an H200 (docs/performance.md)."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from gr00t_test_support.builders import make_embodiment, make_frames  # noqa: E402
from gr00t_training.checkpoint import new_checkpoint  # noqa: E402
from gr00t_training.dataset.statistics.compute import KeyStatistics  # noqa: E402
from gr00t_training.model.families import variants  # noqa: E402
from gr00t_training.train.memory import MemoryEstimate, SampleSize, estimate_memory  # noqa: E402
from gr00t_training.train.preflight import judge_memory  # noqa: E402
from gr00t_training.train.recipes import read_recipe  # noqa: E402
from gr00t_training.train.settings import Optimizer, Quantization, TrainerSettings  # noqa: E402
from gr00t_training.transforms.observation import observation_from_frames  # noqa: E402
from gr00t_training.types import Verdict  # noqa: E402

HEAD = TrainerSettings(batch_size=32, tune_visual=False)
# of one 256x256 camera and 34 tokens of text, as the bench makes them
SIZES = {
    "n1_2b": SampleSize(256, 98),
    "n1_5_3b": SampleSize(1024, 290),
    "n1_6_3b": SampleSize(324, 115),
    "n1_7_3b": SampleSize(256, 98),
}


def gib(name, **changes):
    return estimate_memory(variants()[name].config, dataclasses.replace(HEAD, **changes), SIZES[name]).total_gib


@pytest.mark.parametrize(
    ("name", "changes", "measured"),
    [
        ("n1_2b", {}, 13.0),
        ("n1_2b", {"tune_visual": True}, 30.0),
        ("n1_2b", {"batch_size": 8}, 12.8),
        ("n1_5_3b", {}, 21.1),
        ("n1_6_3b", {}, 26.5),
        ("n1_7_3b", {}, 30.1),
    ],
)
def test_the_estimate_is_near_what_was_measured(name, changes, measured):
    assert gib(name, **changes) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(
    ("name", "changes", "measured"),
    [
        ("n1_2b", {}, 9.4),
        ("n1_2b", {"checkpoint_activations": True}, 6.3),
        ("n1_7_3b", {"checkpoint_activations": True}, 12.2),
    ],
)
def test_the_estimate_of_adapters_is_near_what_was_measured(name, changes, measured):
    pytest.importorskip("peft")
    adapted = {"lora_rank": 64, "lora_alpha": 128.0, "batch_size": 8, **changes}
    assert gib(name, **adapted) == pytest.approx(measured, rel=0.2)


def test_what_saves_memory_lowers_the_estimate():
    whole = gib("n1_2b", tune_visual=True)
    assert gib("n1_2b", tune_visual=True, accumulate=4) < whole - 6
    assert gib("n1_2b", tune_visual=True, checkpoint_activations=True) < whole - 6
    assert gib("n1_2b", optimizer=Optimizer.ADAMW8BIT) < gib("n1_2b") - 2.5
    # 1.1 billion frozen weights of linear layers take 4.5 bits instead of 16
    assert gib("n1_2b") - gib("n1_2b", quantize_base=Quantization.NF4) == pytest.approx(
        1.231e9 * 1.4375 / 2**30, rel=0.1
    )
    assert gib("n1_2b", ema_decay=0.9) == pytest.approx(gib("n1_2b") + 4 * 552.4e6 / 2**30, rel=0.01)


def test_adapters_need_less_than_the_head_whole():
    pytest.importorskip("peft")
    targets = {"lora_rank": 16, "lora_targets": ("llm", "diffusion"), "batch_size": 8}
    assert gib("n1_2b", **targets) < gib("n1_2b", batch_size=8) - 3
    assert gib("n1_2b", **targets) < gib("n1_2b", **{**targets, "lora_rank": 128})


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "room"), [("lora-12gb", 11.2), ("lora-24gb", 22.5), ("full-80gb", 76.0)])
def test_recipes_fit_their_cards_with_every_release(recipe, room):
    pytest.importorskip("peft")
    settings = TrainerSettings(**read_recipe(recipe))
    found = {name: estimate_memory(variants()[name].config, settings, size).total_gib for name, size in SIZES.items()}
    assert max(found.values()) < room, found


def test_processes_share_batch_and_split_weights():
    config, size = variants()["n1_2b"].config, SIZES["n1_2b"]
    settings = dataclasses.replace(HEAD, tune_visual=True)
    alone = estimate_memory(config, settings, size)
    ddp = estimate_memory(config, settings, size, num_processes=2)
    fsdp = estimate_memory(config, dataclasses.replace(settings, parallel="fsdp"), size, num_processes=2)
    assert (ddp.optimizer, ddp.activations) == (alone.optimizer, alone.activations / 2)
    assert fsdp.optimizer == alone.optimizer / 2


@pytest.mark.parametrize(
    ("needed", "verdict"), [(8, Verdict.GO), (10, Verdict.LOOK), (13, Verdict.LOOK), (15, Verdict.NO_GO)]
)
def test_the_estimate_is_judged_by_the_card(needed, verdict):
    estimate = MemoryEstimate(needed * 2**30, 0, 0, 0, 0, 0)
    found, text = judge_memory(estimate, 11, 12)
    assert found is verdict
    assert f"about {needed}.0 GiB (weights {needed}.0); 11.0 of 12.0 GiB are free" in text
    assert ("--lora-rank" in text) == (found is not Verdict.GO)


def test_the_size_of_a_sample():
    embodiment = make_embodiment()
    one = {kind: {key: np_statistics(v.dim) for key, v in keys.items()} for kind, keys in kinds(embodiment)}
    checkpoint = new_checkpoint("n1_compact", embodiment, one)
    pipeline = checkpoint.pipeline()
    sample = pipeline.encode(observation_from_frames(make_frames(embodiment, 1), embodiment, "lift the cube"))
    size = SampleSize.of(sample, checkpoint.config)
    assert size.num_patches == 144  # one image of 168 px, patches of 14 px
    assert size.num_tokens == sample["input_ids"].shape[-1] > 36
    text = str(estimate_memory(checkpoint.config, HEAD, size))
    assert text.startswith("about ")
    assert "other" in text


def kinds(embodiment):
    return (("state", embodiment.state), ("action", embodiment.action))


def np_statistics(dim):
    import numpy as np

    one = np.ones(dim)
    return KeyStatistics(min=-one, max=one, mean=0 * one, std=one, q01=-one, q99=one)
