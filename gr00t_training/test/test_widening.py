# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Robots that a model was not made for: wider state or action, another embodiment, a longer chunk."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from reference_release import load_batch, load_packed, load_tiny  # noqa: E402

from gr00t_test_support.builders import make_checkpoint, make_embodiment, make_frames  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model, new_checkpoint, save_checkpoint  # noqa: E402
from gr00t_training.checkpoint.audit import audit_checkpoint  # noqa: E402
from gr00t_training.checkpoint.trial import shape_model  # noqa: E402
from gr00t_training.checkpoint.widening import widen, with_projectors, with_room, with_rows  # noqa: E402
from gr00t_training.dataset.statistics.compute import KeyStatistics  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.embodiment import Embodiment, Normalization, VectorKey  # noqa: E402
from gr00t_training.errors import CheckpointError, ConfigError  # noqa: E402
from gr00t_training.model.action_head import CategoryLinear  # noqa: E402
from gr00t_training.policy.policy import Policy  # noqa: E402
from gr00t_training.train.finetune import finetune  # noqa: E402
from gr00t_training.train.settings import FinetuneSettings, TrainerSettings  # noqa: E402
from gr00t_training.transforms.observation import resting_observation  # noqa: E402

np = pytest.importorskip("numpy")
torch.set_num_threads(1)
TINY = {"n1_tiny": "single", "n1_5_tiny": "single", "n1_6_tiny": None, "n1_7_tiny": None}


def wide_embodiment(dim: int = 70, **changes) -> Embodiment:
    arm = VectorKey(names=tuple(f"j{i}" for i in range(dim)), normalization=Normalization.MIN_MAX)
    return dataclasses.replace(make_embodiment(), state={"arm": arm}, action={"arm": arm}, **changes)


def make_statistics(embodiment: Embodiment) -> dict[str, dict[str, KeyStatistics]]:
    def spread(dim: int) -> KeyStatistics:
        return KeyStatistics(*(np.full(dim, value) for value in (-1.0, 1.0, 0.0, 1.0, -1.0, 1.0)))

    return {
        kind: {name: spread(key.dim) for name, key in getattr(embodiment, kind).items()} for kind in ("state", "action")
    }


def reference_batch(tiny: Path) -> dict[str, torch.Tensor]:
    case = TINY[tiny.name]
    return load_packed(tiny) if case is None else load_batch(tiny, case)


@pytest.mark.parametrize("name", TINY)
def test_a_widened_model_computes_the_same_on_the_old_channels(fixtures_dir, name):
    model, batch = load_tiny(fixtures_dir / name), reference_batch(fixtures_dir / name)
    head = model.config.action_head
    shape = (len(batch["state"]), head.action_horizon, head.action_dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = model.sample_actions(batch, noise, 2)
    config = dataclasses.replace(
        model.config,
        action_head=dataclasses.replace(
            head, state_dim=head.state_dim + 5, action_dim=head.action_dim + 3, num_embodiments=head.num_embodiments + 1
        ),
    )
    wide = shape_model(config)
    widen(model, wide, [head.num_embodiments])
    state = torch.cat([batch["state"], torch.randn(*batch["state"].shape[:2], 5)], -1)
    found = wide.sample_actions({**batch, "state": state}, torch.cat([noise, torch.randn(*shape[:2], 3)], -1), 2)
    torch.testing.assert_close(found[..., : head.action_dim], expected, rtol=1e-4, atol=1e-5)
    # the control: the new channels do something, and the new embodiment is another
    assert found[..., head.action_dim :].std() > 0.1
    other = torch.full_like(batch["embodiment_id"], head.num_embodiments)
    again = wide.sample_actions(
        {**batch, "state": state, "embodiment_id": other}, torch.cat([noise, torch.randn(*shape[:2], 3)], -1), 2
    )
    assert (again[..., : head.action_dim] - expected).abs().max() > 0.05


def test_the_rows_of_a_state_that_is_one_token_grow_each(fixtures_dir):
    model = load_tiny(fixtures_dir / "n1_7_tiny")
    head = dataclasses.replace(model.config.action_head, state_history=2)
    config = dataclasses.replace(model.config, action_head=head)
    torch.manual_seed(0)
    narrow, wide = type(model)(config), shape_model(with_state(config, head.state_dim + 3))
    encode = narrow.action_head._state_tokens
    ids, state = torch.tensor([0]), torch.randn(1, 2, head.state_dim)
    expected = encode(state, ids)
    widen(narrow, wide, [])
    found = wide.action_head._state_tokens(torch.cat([state, torch.randn(1, 2, 3)], -1), ids)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def with_state(config, dim):
    return dataclasses.replace(config, action_head=dataclasses.replace(config.action_head, state_dim=dim))


def test_fresh_layers_are_drawn_from_the_generator_like_those_of_a_new_model(fixtures_dir):
    found = []
    for seed in (3, 3, 4):
        model = load_tiny(fixtures_dir / "n1_tiny")
        table = model.action_head.state_encoder.layer1
        rows, inputs, outputs = table.W.shape
        wide = shape_model(with_rows(model.config, {"new": rows}))
        torch.manual_seed(seed)
        widen(model, wide, [rows])
        found.append(wide.action_head.state_encoder.layer1)
    assert torch.equal(found[0].W, found[1].W)
    assert not torch.equal(found[0].W, found[2].W)
    assert torch.equal(found[0].W[:rows], table.W)
    torch.manual_seed(3)
    assert torch.equal(found[0].W[rows], CategoryLinear(1, inputs, outputs).W[0])
    assert not found[0].b[rows].any()


@pytest.mark.parametrize(
    ("projectors", "num_rows", "expected"),
    [({"a": 1}, 3, 2), ({"a": 2, "b": 2}, 3, 1), ({"a": 0, "b": 1}, 2, 2), ({"a": 1, "new": 0}, 2, 0)],
    ids=["highest free row", "rows that tags share", "one behind the last", "a known tag"],
)
def test_a_tag_takes_a_row(projectors, num_rows, expected):
    assert with_projectors(projectors, ["new"], num_rows) == {**projectors, "new": expected}


def test_a_wider_robot_trains_from_a_narrower_checkpoint(tmp_path, caplog):
    base = make_checkpoint(tmp_path / "base", make_embodiment())
    robot = wide_embodiment(70, tag="my_robot")
    with caplog.at_level(logging.INFO):
        checkpoint = load_checkpoint(base, embodiment=robot, statistics=make_statistics(robot))
        torch.manual_seed(0)
        model = load_model(checkpoint)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "new embodiment tag 'my_robot': row 2 of the model's tables"
    assert messages[1].startswith("widened for the robot, with the weights carried over: ")
    assert "action_head.action_decoder.layer2.W (2, 192, 32) -> (3, 192, 70)" in messages[1]
    assert len(messages) == 2
    head = model.config.action_head
    assert (head.state_dim, head.action_dim, head.num_embodiments) == (70, 70, 3)
    written = save_checkpoint(tmp_path / "tuned", checkpoint, model)
    assert [str(finding) for finding in audit_checkpoint(written) if finding.is_fault] == []
    assert json.loads((written / "embodiment_id.json").read_text())["my_robot"] == 2
    caplog.clear()
    policy = Policy.from_checkpoint(written, device="cpu", seed=0)
    assert caplog.messages == []
    assert policy.infer(resting_observation(robot, "lift")).actions["arm"].shape == (16, 70)
    kept, old = load_model(load_checkpoint(written)), load_model(load_checkpoint(base))
    for name, weight in old.state_dict().items():
        found = kept.state_dict()[name]
        assert torch.equal(found[tuple(slice(0, size) for size in weight.shape)], weight), name


def test_a_narrower_robot_changes_nothing(tmp_path, caplog):
    base = make_checkpoint(tmp_path / "base", make_embodiment())
    robot = wide_embodiment(2)
    with caplog.at_level(logging.INFO):
        checkpoint = load_checkpoint(base, embodiment=robot, statistics=make_statistics(robot))
        found, expected = load_model(checkpoint).state_dict(), load_model(load_checkpoint(base)).state_dict()
    assert caplog.messages == []
    assert not checkpoint.is_widened
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_a_fresh_model_has_room_for_its_robot():
    robot = wide_embodiment(70, tag="my_robot")
    checkpoint = new_checkpoint("n1_compact", robot, make_statistics(robot))
    head = checkpoint.config.action_head
    assert (head.state_dim, head.action_dim, checkpoint.projector, head.num_embodiments) == (70, 70, 2, 3)
    assert new_checkpoint("n1_compact", make_embodiment(), make_statistics(make_embodiment())).projector == 1


def test_a_chunk_beyond_the_positions_of_a_model_is_refused(tmp_path):
    base = make_checkpoint(tmp_path / "base", make_embodiment())
    robot = dataclasses.replace(make_embodiment(), action_horizon=65)
    message = "embodiment 'test_arm': action_horizon is 65, the model has positions for 64 .*set a shorter"
    with pytest.raises(CheckpointError, match=f"base: {message}"):
        load_checkpoint(base, embodiment=robot, statistics=make_statistics(robot))
    with pytest.raises(ConfigError, match=message):
        new_checkpoint("n1_compact", robot, make_statistics(robot))
    longest = dataclasses.replace(robot, action_horizon=64)
    loaded = load_checkpoint(base, embodiment=longest, statistics=make_statistics(longest))
    assert load_model(loaded).config.action_head.action_horizon == 64
    huge = wide_embodiment(8192)
    both = dataclasses.replace(huge, action={**huge.action, "hand": VectorKey(names=("h",))})
    assert with_room(loaded.config, [huge], 16).action_head.state_dim == 8192
    with pytest.raises(CheckpointError, match="action_dim is 8193, expected 1 to 8192; use fewer keys"):
        load_checkpoint(base, embodiment=both, statistics=make_statistics(both))


@pytest.mark.parametrize("name", ["n1_6_tiny", "n1_7_tiny"])
def test_options_of_the_transforms_follow_the_model(fixtures_dir, tmp_path, name):
    robot = wide_embodiment(70, tag="my_robot")
    base = load_checkpoint(fixtures_dir / name, embodiment=robot, statistics=make_statistics(robot))
    assert base.options and (base.options.max_state_dim, base.options.max_action_dim) == (70, 70)
    written = save_checkpoint(tmp_path / "tuned", base, load_model(base))
    assert [str(finding) for finding in audit_checkpoint(written) if finding.is_fault] == []


@pytest.mark.slow
def test_adapters_of_a_widened_base_are_a_checkpoint_of_the_wider_robot(tmp_path):
    pytest.importorskip("peft")
    base = make_checkpoint(tmp_path / "base", make_embodiment())
    robot = wide_embodiment(70, tag="my_robot")
    with DatasetWriter(tmp_path / "data", robot) as writer:
        for seed in range(2):
            episode = writer.start_episode("lift")
            for frame in make_frames(robot, 4, seed=seed):
                episode.add_frame(frame)
            episode.save()
    how = TrainerSettings(max_steps=2, batch_size=2, device="cpu", lora_rank=4, num_workers=0, validation_share=0.5)
    settings = FinetuneSettings(output=tmp_path / "run", dataset=tmp_path / "data", base_model=base, trainer=how)
    result = finetune(settings)
    assert result.best is not None and math.isfinite(result.best.loss)
    policy = Policy.from_checkpoint(result.checkpoint, device="cpu", seed=0)
    actions = policy.infer(resting_observation(robot, "lift")).actions["arm"]
    assert actions.shape == (16, 70) and np.isfinite(actions).all()
    assert [str(finding) for finding in audit_checkpoint(result.checkpoint) if finding.is_fault] == []
