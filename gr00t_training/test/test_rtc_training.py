# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Training-time real-time chunking: the loss, what the layers see, the sampler, and what a checkpoint keeps of it."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_inference import (  # noqa: E402
    FAMILIES,
    NEEDS_GPU,
    PROJECTOR,
    STEPS,
    Averages,
    make_batch,
    make_model,
    make_noise,
    make_request,
    small,
)
from torch import Tensor  # noqa: E402

from gr00t_test_support.builders import make_checkpoint, make_embodiment, make_frames  # noqa: E402
from gr00t_training.checkpoint import Checkpoint, load_checkpoint, load_model, save_checkpoint  # noqa: E402
from gr00t_training.checkpoint.report import describe_checkpoint  # noqa: E402
from gr00t_training.dataset.reader import EpisodeDataset  # noqa: E402
from gr00t_training.dataset.writer import DatasetWriter  # noqa: E402
from gr00t_training.errors import CheckpointError, ConfigError  # noqa: E402
from gr00t_training.model.action_head import ActionHead  # noqa: E402
from gr00t_training.model.config import ActionHeadConfig, DitConfig, Gr00tConfig  # noqa: E402
from gr00t_training.model.families import FAMILIES as RELEASES  # noqa: E402
from gr00t_training.model.fast.inference import InferenceModel  # noqa: E402
from gr00t_training.model.gr00t import Gr00tModel, to_device  # noqa: E402
from gr00t_training.model.sampler import Inpainting  # noqa: E402
from gr00t_training.policy.engine import Engine  # noqa: E402
from gr00t_training.policy.policy import Policy  # noqa: E402
from gr00t_training.train.conditioning import condition  # noqa: E402
from gr00t_training.train.settings import TrainerSettings  # noqa: E402
from gr00t_training.train.trainer import Trainer  # noqa: E402
from gr00t_training.transforms.observation import resting_observation  # noqa: E402
from gr00t_training.types import Continuation, Observation  # noqa: E402

torch.set_num_threads(1)
DELAYS = (0, 3)  # of two samples
MOTION = 0.15
EMBODIMENT = make_embodiment()


def trained(config: Gr00tConfig, max_delay: int) -> Gr00tConfig:
    return dataclasses.replace(config, action_head=dataclasses.replace(config.action_head, rtc_max_delay=max_delay))


def make_case(name: str, device: str = "cpu") -> tuple[Gr00tModel, dict[str, Tensor], Tensor, Tensor]:
    """Return a model, a batch of two samples with targets, noise, and times."""
    config = trained(small(name), 5)
    config = dataclasses.replace(config, action_head=dataclasses.replace(config.action_head, state_dropout=0.0))
    batch = make_batch(config, [(4, 4)], 2, 0)
    shape = (2, config.action_head.action_horizon, config.action_head.action_dim)
    batch["action"] = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    batch["action_mask"] = torch.ones(shape, dtype=torch.bool)
    batch["action_mask"][:, :, 5:] = False
    batch["action_mask"][:, 9:] = False  # the embodiment's horizon is shorter than the model's
    return make_model(config, device), batch, make_noise(config, 2), torch.tensor([0.25, 0.625])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_the_mean_over_the_rows_that_are_not_given(name: str):
    model, batch, noise, time = make_case(name)
    seen: list[Tensor] = []
    model.action_head.action_decoder.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        found = model.loss(batch, noise, time, delay=torch.tensor(DELAYS))
    squares = (seen[0] - (batch["action"] - noise)) ** 2
    expected = torch.cat([squares[0, :9, :5].flatten(), squares[1, 3:9, :5].flatten()]).mean()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_noise_of_given_rows_is_neither_seen_nor_learned(name: str):
    model, batch, noise, time = make_case(name)
    delay = torch.tensor(DELAYS)

    def loss(row: int) -> Tensor:
        changed = noise.clone()
        changed[1, row] += 1
        with torch.no_grad():
            return model.loss(batch, changed, time, delay=delay)

    with torch.no_grad():
        expected = model.loss(batch, noise, time, delay=delay)
    assert torch.equal(loss(2), expected)
    assert not torch.equal(loss(3), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_given_rows_have_the_time_of_finished_actions_in_encoder_and_transformer(name: str):
    model, batch, noise, time = make_case(name)
    head = model.action_head
    codes: list[Tensor] = []
    norms: list[list[Tensor]] = []
    head.action_encoder.register_forward_pre_hook(lambda _module, inputs: codes.append(inputs[1]))
    head.dit.register_forward_pre_hook(lambda _module, inputs: norms.append(inputs[2]))
    with torch.no_grad():
        model.loss(batch, noise, time, delay=torch.tensor(DELAYS))
        buckets = torch.tensor([250, 625, 1000])
        own, finished = head.time_codes(buckets)[:2], head.time_codes(buckets)[2:]
        modulations = head.dit.modulations(buckets)
    assert torch.equal(codes[0][0], own[0].expand_as(codes[0][0]))
    assert torch.equal(codes[0][1, :3], finished[0].expand(3, -1))
    assert torch.equal(codes[0][1, 3:], own[1].expand_as(codes[0][1, 3:]))
    horizon = head.config.action_horizon
    for found, expected in zip(norms[0], modulations, strict=True):
        leading = found.shape[1] - horizon
        assert leading >= 1
        is_finished = [False] * leading + [True] * 3 + [False] * (horizon - 3)
        torch.testing.assert_close(found[0], expected[0].expand_as(found[0]))
        torch.testing.assert_close(found[1], torch.where(torch.tensor(is_finished)[:, None], expected[2], expected[1]))


@pytest.mark.parametrize("name", FAMILIES)
def test_without_the_option_nothing_is_drawn_and_the_loss_is_that_of_no_delay(name: str):
    model, batch, noise, time = make_case(name)
    none = torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        no_delay = model.loss(batch, noise, time, delay=none)
        model.set_conditioning(rtc_max_delay=0, state_dropout=0.0, has_mask_token=False)
        torch.manual_seed(5)
        off = model.loss(batch, noise, time)
        state = torch.get_rng_state()
        torch.manual_seed(5)
        assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(off, no_delay)


def test_validation_gives_no_rows():
    model, batch, _, _ = make_case("n1_2b")
    losses = []
    for max_delay in (5, 0):
        model.set_conditioning(rtc_max_delay=max_delay, state_dropout=0.0, has_mask_token=False)
        torch.manual_seed(4)
        losses.append(model.loss_and_actions(batch, model.plan(batch), 2)[0])
    torch.testing.assert_close(losses[0], losses[1])


def test_every_delay_is_drawn_equally_often():
    model, _, _, _ = make_case("n1_2b")
    torch.manual_seed(0)
    rows = model.action_head._prefix(None, torch.zeros(6000, 16, 1)).sum(1)
    counts = torch.bincount(rows)
    assert len(counts) == 6
    assert counts.min() > 900
    assert counts.max() < 1100


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_inference_path_equals_the_layers(name: str, device: str):
    """Given rows, a ramp as a model without training has it, and neither."""
    model, batch, noise, _ = make_case(name, device)
    batch, noise = to_device(batch, device), noise.to(device)
    earlier = noise.flip(1)[:, :6].tanh()
    cases = [Inpainting(earlier, 4, is_prefix=True), Inpainting(earlier, 4), None]
    expected = [model.sample_actions(batch, noise, STEPS, case) for case in cases]
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)
    inference = InferenceModel(model, PROJECTOR, STEPS)
    horizon = noise.shape[1]
    for case, actions in zip(cases, expected, strict=True):
        rows = case.started_rows if case else 0
        start = torch.cat([earlier[:, :rows], noise[:, rows:]], 1)
        strength = (case.strength(horizon) if case else torch.ones(horizon, 1)).to(device)
        prefix = (case.prefix(horizon).float() if case else torch.zeros(horizon)).to(device)
        with torch.inference_mode():
            prepared = inference.prepare(batch)
            found = inference(batch["pixel_values"], prepared, batch["state"], start, strength, prefix)
        torch.testing.assert_close(found, actions, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_the_engine_takes_any_number_of_given_rows_with_one_program(device: str):
    config = trained(small("n1_7_3b"), 5)
    model, images = make_model(config, device), Averages(config)
    engine = Engine(InferenceModel(model, PROJECTOR, STEPS), images)  # type: ignore[arg-type]
    batch = make_batch(config, [(4, 4)], 1, 0)
    request = make_request(config, batch, [(8, 8)], 0)
    horizon, answers = request.start.shape[1], []
    for given in (0, 2, 5, 0):
        prefix = (np.arange(horizon) < given).astype(np.float32)
        answers.append(engine.run(dataclasses.replace(request, strength=1 - prefix, prefix=prefix)))
        np.testing.assert_array_equal(answers[-1][:, :given], request.start[:, :given])
    np.testing.assert_array_equal(answers[0], answers[3])
    np.testing.assert_array_equal(answers[0], engine.run(request))
    assert len({answer.tobytes() for answer in answers}) == 3
    assert len(engine._programs) == 1


def test_given_rows_are_refused_by_a_model_without_that_training():
    model, batch, noise, _ = make_case("n1_2b")
    model.set_conditioning(rtc_max_delay=0, state_dropout=0.0, has_mask_token=False)
    inference = InferenceModel(model, PROJECTOR, STEPS)
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match="prefix: given rows, but the model was trained without"),
    ):
        inference(
            batch["pixel_values"],
            inference.prepare(batch),
            batch["state"],
            noise,
            torch.ones(noise.shape[1], 1),
            torch.ones(noise.shape[1]),
        )
    with pytest.raises(ValueError, match=r"guidance is 5\.0, expected None for a model that continues"):
        Inpainting(torch.zeros(1, 2, 1), 1, guidance=5.0, is_prefix=True)


def make_signs(count: int) -> Tensor:
    return (torch.randint(2, (count, 1, 1)) * 2.0 - 1).expand(-1, 8, -1)


def fitted_head(max_delay: int) -> ActionHead:
    """Return a small head that learned two motions for one observation: up or down, small against the noise."""
    torch.manual_seed(0)
    config = ActionHeadConfig(
        dit=DitConfig(num_heads=2, head_dim=16, num_layers=2, output_dim=32, dropout=0.0),
        hidden_size=32,
        action_dim=1,
        state_dim=1,
        action_horizon=8,
        num_embodiments=1,
        max_positions=8,
        rtc_max_delay=max_delay,
    )
    head = ActionHead(config, 32, kernel="sdpa").train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(300):
        actions = MOTION * make_signs(64)
        loss = head.loss(
            torch.zeros(64, 2, 32),
            torch.zeros(64, 1, 1),
            actions,
            torch.ones_like(actions),
            torch.zeros(64, dtype=torch.long),
            torch.randn_like(actions),
            head.sample_time(64, actions.device),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


@pytest.mark.slow
def test_a_trained_head_continues_the_motion_that_is_given():
    """The first row behind three given ones is at their height; today's frozen rows leave a larger jump."""
    torch.manual_seed(1)
    earlier, noise = MOTION * make_signs(200), torch.randn(200, 8, 1)
    jumps = {}
    for max_delay in (0, 4):
        inpainting = Inpainting(earlier[:, :3], 3, is_prefix=max_delay > 0)
        head = fitted_head(max_delay)
        with torch.no_grad():
            found = head.sample(
                torch.zeros(200, 2, 32),
                torch.zeros(200, 1, 1),
                torch.zeros(200, dtype=torch.long),
                noise,
                8,
                inpainting=inpainting,
            )
        assert torch.equal(found[:, :3], earlier[:, :3])
        jumps[max_delay] = float((found[:, 3] - found[:, 2]).abs().mean())
    assert jumps[4] < 0.15, jumps
    assert jumps[4] < 0.5 * jumps[0], jumps


@pytest.mark.parametrize("model_type", RELEASES)
def test_a_configuration_keeps_the_trained_delay(model_type: str):
    release = RELEASES[model_type]
    written, vlm = release.dump(trained(release.release, 4))
    assert json.dumps(written).count('"rtc_max_delay": 4') == 1
    parsed = release.parse(written, vlm)
    assert parsed.action_head.rtc_max_delay == 4
    without, _ = release.dump(trained(parsed, 0))  # `parsed` still has the file with the key
    assert "rtc_max_delay" not in json.dumps(without)
    for wrong in (-1, 2.5, True, "4", 20_000):
        damaged = json.loads(json.dumps(written).replace('"rtc_max_delay": 4', f'"rtc_max_delay": {json.dumps(wrong)}'))
        with pytest.raises(CheckpointError, match="rtc_max_delay is"):
            release.parse(damaged, vlm)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("base") / "model", EMBODIMENT)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    with DatasetWriter(root, EMBODIMENT) as writer:
        episode = writer.start_episode("lift the cube")
        for frame in make_frames(EMBODIMENT, 4):
            episode.add_frame(frame)
        episode.save()
    return EpisodeDataset(root)


def make_trainer(base, dataset, output, **options) -> Trainer:
    checkpoint = load_checkpoint(base)
    settings = TrainerSettings(batch_size=2, max_steps=1, device="cpu", seed=1, **options)
    return Trainer(settings, dataset, checkpoint, load_model(checkpoint), output)


def test_a_run_trains_for_delays_and_its_checkpoint_says_so(base, dataset, tmp_path):
    path = make_trainer(base, dataset, tmp_path / "run", rtc_max_delay=3).train()
    assert load_checkpoint(path).config.action_head.rtc_max_delay == 3
    assert describe_checkpoint(path).sizes["rtc_max_delay"] == 3
    assert "rtc_max_delay" not in describe_checkpoint(base).sizes
    again = save_checkpoint(tmp_path / "copy", load_checkpoint(path), load_model(load_checkpoint(path)))
    assert (again / "config.json").read_bytes() == (path / "config.json").read_bytes()
    other = make_trainer(path, dataset, tmp_path / "other", rtc_max_delay=0)
    assert "rtc_max_delay" not in (other.train() / "config.json").read_text()


def test_a_resumed_run_keeps_its_delays(base, dataset, tmp_path):
    path = make_trainer(base, dataset, tmp_path / "run", rtc_max_delay=3).train()
    with pytest.raises(ConfigError, match="rtc_max_delay: found 3, expected 2"):
        make_trainer(path, dataset, tmp_path / "run", rtc_max_delay=2).resume(path)


def test_a_delay_must_leave_rows_to_predict(base, dataset, tmp_path):
    horizon = EMBODIMENT.action_horizon
    with pytest.raises(
        ConfigError, match=f"rtc_max_delay is {horizon}, .* has {horizon} rows .* at most {horizon - 1}"
    ):
        make_trainer(base, dataset, tmp_path / "run", rtc_max_delay=horizon)


def test_the_policy_gives_the_frozen_rows_to_a_trained_model(base, tmp_path, caplog):
    checkpoint = load_checkpoint(base)
    model = load_model(checkpoint)
    model.set_conditioning(rtc_max_delay=3, state_dropout=0.0, has_mask_token=False)
    checkpoint = dataclasses.replace(checkpoint, config=model.config)
    policy = Policy(checkpoint, model, seed=0)
    observation = resting_observation(EMBODIMENT, "lift the cube")
    earlier = policy.infer(observation)
    later = Observation(observation.images, observation.state, observation.instruction, 2 * EMBODIMENT.step_ns)
    shape = (1, EMBODIMENT.action_horizon, policy.pipeline.inputs.action_dim)
    noise = np.random.default_rng(0).normal(size=shape)

    def answer(**options) -> dict[str, np.ndarray]:
        return policy.infer_batch([later], [Continuation(earlier, **options)], noise=noise)[0].actions

    caplog.set_level(logging.WARNING)
    given = answer(frozen_steps=3)
    for key, rows in given.items():
        np.testing.assert_allclose(rows[:3], earlier.actions[key][2:5], atol=1e-6)
    # neither ramp nor pull: they have no effect
    for options in ({"ramp_rate": 1.0}, {"guidance": 5.0}):
        for key, rows in answer(frozen_steps=3, **options).items():
            np.testing.assert_array_equal(rows, given[key])
    start = torch.from_numpy(noise).float()
    parts = policy.pipeline.encode_actions({key: rows[2:5] for key, rows in earlier.actions.items()}, later)[None]
    batch = policy.pipeline.collate([policy.pipeline.encode(later)])
    plain = model.sample_actions(batch, start, policy.denoising_steps, Inpainting(parts, 3, is_prefix=True))
    for key, rows in policy.pipeline.decode(plain[0], later).items():
        np.testing.assert_allclose(given[key], rows, atol=1e-5)
    assert not caplog.records
    for _ in range(2):
        ramp = answer(frozen_steps=4)
    assert [record.getMessage()[:60] for record in caplog.records] == [
        "4 rows are frozen while the model computes, it was trained f"
    ]
    assert any(np.abs(rows[4:] - given[key][4:]).max() > 1e-4 for key, rows in ramp.items())
    untrained = Policy(load_checkpoint(base), load_model(load_checkpoint(base)), seed=0)
    expected = untrained.infer_batch([later], [Continuation(earlier, frozen_steps=4)], noise=noise)[0].actions
    for key, rows in ramp.items():
        np.testing.assert_allclose(rows, expected[key], atol=1e-6)


@pytest.mark.parametrize(("name", "share"), [("n1_2b", 0.0), ("n1_5_3b", 0.0), ("n1_6_3b", 0.0), ("n1_7_3b", 0.2)])
def test_the_state_is_hidden_as_often_as_in_the_release(name: str, share: float):
    config = small(name)
    head = dataclasses.replace(config.action_head, state_dropout=0.8 if "6" in name or "7" in name else 0.0)
    config = dataclasses.replace(config, action_head=head)
    release = RELEASES[config.model_type]
    checkpoint = Checkpoint(config, EMBODIMENT, {}, Path(), {}, options=release.released_options)
    for wanted, expected in ((None, share), (0.5, 0.5)):
        model = Gr00tModel(config)
        found = condition(TrainerSettings(state_dropout=wanted), checkpoint, model)
        assert found.config == model.config
        assert found.config.action_head.state_dropout == expected
        # where the release has a learned token, it exists while it is used, and a file says the same
        has_token = name == "n1_6_3b" and expected > 0
        assert (model.action_head.mask_token is not None) == has_token
        assert set(model.state_dict()) == set(Gr00tModel(found.config).state_dict())
        if name == "n1_7_3b":
            assert found.options is not None
            assert found.options.state_dropout_prob == expected


def test_a_token_for_hidden_states_is_made_where_the_base_has_none():
    config = small("n1_6_3b")
    head = dataclasses.replace(config.action_head, state_dropout=0.0, has_mask_token=False)
    model = Gr00tModel(dataclasses.replace(config, action_head=head)).bfloat16()
    model.set_conditioning(rtc_max_delay=0, state_dropout=0.3, has_mask_token=True)
    token = model.action_head.mask_token
    assert isinstance(token, torch.nn.Parameter)
    assert token.dtype == torch.bfloat16
    assert 0 < float(token.detach().float().std()) < 0.05
    kept = token.detach().clone()
    model.set_conditioning(rtc_max_delay=0, state_dropout=0.4, has_mask_token=True)
    assert model.action_head.mask_token is token
    assert torch.equal(token, kept)
