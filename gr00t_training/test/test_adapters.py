# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Adapters in training and as checkpoints; PEFT's own merge is the oracle of ours."""

import copy
import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
peft = pytest.importorskip("peft")

from reference_release import load_batch, load_packed, load_tiny  # noqa: E402

from gr00t_test_support.builders import make_checkpoint, make_embodiment, make_frames, record_episode  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model, new_checkpoint  # noqa: E402
from gr00t_training.checkpoint.adapter import BASE_VARIABLE, BaseReference, read_adapter  # noqa: E402
from gr00t_training.checkpoint.audit import audit_checkpoint  # noqa: E402
from gr00t_training.checkpoint.model_weights import find_model_weights  # noqa: E402
from gr00t_training.checkpoint.report import describe_checkpoint  # noqa: E402
from gr00t_training.checkpoint.weight_files import TensorReader  # noqa: E402
from gr00t_training.cli.checkpoint import main as checkpoint_command  # noqa: E402
from gr00t_training.errors import CheckpointError, ConfigError  # noqa: E402
from gr00t_training.model.families import family  # noqa: E402
from gr00t_training.model.gr00t import Gr00tModel  # noqa: E402
from gr00t_training.policy.policy import Policy  # noqa: E402
from gr00t_training.train.adapters import Base, choose_trained  # noqa: E402
from gr00t_training.train.data.fit import dataset_statistics  # noqa: E402
from gr00t_training.train.finetune import finetune  # noqa: E402
from gr00t_training.train.settings import FinetuneSettings, TrainerSettings  # noqa: E402
from gr00t_training.train.step import change_blocks  # noqa: E402
from gr00t_training.train.trainer import Trainer  # noqa: E402
from gr00t_training.train.weights import TrainedWeights  # noqa: E402
from gr00t_training.transforms.observation import observation_from_frames  # noqa: E402

torch.set_num_threads(1)
EMBODIMENT = make_embodiment()
LORA = TrainerSettings(lora_rank=4, batch_size=2, max_steps=4, save_steps=2, device="cpu", seed=1, learning_rate=1e-3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record_episode(tmp_path_factory.mktemp("dataset"), EMBODIMENT, 7)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("base") / "model", EMBODIMENT)


def run(dataset, base, output, **changes):
    trainer = dataclasses.replace(LORA, **changes)
    return FinetuneSettings(output=output, dataset=dataset.path, base_model=base, trainer=trainer)


@pytest.fixture(scope="module")
def adapter(dataset, base, tmp_path_factory):
    """A checkpoint of a run with adapters on everything, after four steps."""
    return finetune(run(dataset, base, tmp_path_factory.mktemp("run"))).checkpoint


def read_tiny(folder):
    """Return a model of a fixture and a batch for it."""
    packed = folder.name in ("n1_6_tiny", "n1_7_tiny")
    return load_tiny(folder), load_packed(folder) if packed else load_batch(folder, "batch")


def loss_of(model, batch):
    with torch.no_grad():
        return model.loss(batch, *noise_of(batch)).item()


def noise_of(batch):
    generator = torch.Generator().manual_seed(5)
    shape = batch["action"].shape
    drops = torch.zeros(len(batch["state"]), dtype=torch.bool)
    return torch.randn(shape, generator=generator), torch.rand(shape[0], generator=generator), drops


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("name", ["n1_tiny", "n1_5_tiny", "n1_6_tiny", "n1_7_tiny"])
def test_merged_weights_are_those_of_peft_and_give_the_loss_of_the_adapters(fixtures_dir, tmp_path, name, dora):
    model, batch = read_tiny(fixtures_dir / name)
    plain = {key: weight.clone() for key, weight in model.state_dict().items()}
    rows = sorted(set(batch["embodiment_id"].tolist()))
    settings = TrainerSettings(lora_rank=3, lora_alpha=5, lora_targets=("llm", "visual", "diffusion"), dora=dora)
    adapters = choose_trained(model, settings)
    model.eval()
    before = loss_of(model, batch)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    weights = TrainedWeights(model, rows, None, is_whole=False)
    assert loss_of(model, batch) != pytest.approx(before, rel=1e-3)

    names = family(model.config.model_type).names
    reference = BaseReference.of(fixtures_dir / name)
    shapes = {key: tuple(weight.shape) for key, weight in plain.items()}
    adapters.write(tmp_path, Base(reference, shapes), names, weights, {})
    stored = find_model_weights(tmp_path)
    reader = TensorReader(torch.device("cpu"), torch.float32)
    found = {names.to_ours(key): stored.read(key, reader) for key in stored.tensors if names.to_ours(key) in plain}

    merged = Gr00tModel(model.config).eval()
    merged.load_state_dict({**plain, **found})
    # in float64: behind many layers of float32, sums in another order differ by more than the weights do
    precise = {key: x.double() if x.is_floating_point() else x for key, x in batch.items()}
    expected = loss_of(copy.deepcopy(model).double(), precise)
    assert loss_of(merged.double(), precise) == pytest.approx(expected, rel=1e-5)
    oracle = copy.deepcopy(model)
    layers = {key: m for key, m in oracle.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    assert len(layers) > 10
    for key, layer in layers.items():
        layer.merge()
        expected = layer.get_base_layer().weight.detach()
        torch.testing.assert_close(found[f"{key}.weight"], expected, rtol=1e-6, atol=1e-6)


def test_only_adapters_and_what_is_beside_them_train(dataset, base, tmp_path):
    checkpoint = load_checkpoint(base, embodiment=EMBODIMENT, statistics=dataset_statistics(dataset, EMBODIMENT))
    trainer = Trainer(LORA, dataset, checkpoint, load_model(checkpoint), tmp_path)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[1] for name in trained if ".lora_" not in name} == {
        "linear",
        "state_encoder",
        "action_encoder",
        "action_decoder",
        "position_embedding",
    }
    trainer.train()
    moved = {name for name, weight in trainer.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved <= trained
    for part in ("backbone.language", "backbone.vision", "action_head.dit"):
        assert any(name.startswith(part) and ".lora_B." in name for name in moved), part


def test_training_adapters_reduces_the_loss(base):
    checkpoint = load_checkpoint(base)
    model = load_model(checkpoint)
    choose_trained(model, dataclasses.replace(LORA, tune_projector=False, lora_targets=("diffusion", "llm")))
    pipeline, rng = checkpoint.pipeline(), np.random.default_rng(0)
    samples = []
    for frame in make_frames(EMBODIMENT, 2):
        observation = observation_from_frames([frame], EMBODIMENT, "lift the cube")
        action = {key: rng.normal(size=(16, v.dim)) for key, v in EMBODIMENT.action.items()}
        samples.append(pipeline.encode(observation, action, rng, training=True))
    batch = pipeline.collate(samples)
    optimizer = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], lr=3e-3)
    losses = []
    for _ in range(25):
        loss = model.train().loss(batch, *noise_of(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses


def test_a_checkpoint_is_small_and_says_what_it_is(adapter, base):
    size = sum(file.stat().st_size for file in adapter.glob("*.safetensors"))
    assert size < 0.5 * (base / "model.safetensors").stat().st_size
    assert not (adapter / "model.safetensors").exists()
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8.0, "LORA")
    assert config["base_model_name_or_path"] == str(base.resolve())
    rows = read_adapter(adapter).rows
    assert rows["action_head.state_encoder.layer1.W"] == [1]
    assert describe_checkpoint(adapter).base == str(base.resolve())


def test_policy_of_an_adapter_is_that_of_the_merged_checkpoint(adapter, base, tmp_path, capsys):
    assert checkpoint_command(["merge", str(adapter), "--output", str(tmp_path / "merged")]) == 0
    assert not (tmp_path / "merged/base_checkpoint.json").exists()
    observation = observation_from_frames(make_frames(EMBODIMENT, 1), EMBODIMENT, "lift the cube")
    found = {}
    for path in (adapter, tmp_path / "merged", base):
        policy = Policy.from_checkpoint(path, EMBODIMENT if path == base else None, device="cpu", seed=3)
        found[path] = policy.infer(observation).actions
    for key, expected in found[tmp_path / "merged"].items():
        assert np.array_equal(found[adapter][key], expected)
        assert not np.array_equal(found[base][key], expected)
    for path in (adapter, tmp_path / "merged"):
        assert [str(finding) for finding in audit_checkpoint(path) if finding.is_fault] == []
    capsys.readouterr()
    assert checkpoint_command(["merge", str(base), "--output", str(tmp_path / "again")]) == 2
    assert "is no adapter, there is nothing to merge" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [{}, {"dora": True, "lora_dropout": 0.2, "ema_decay": 0.9, "accumulate": 2}],
    ids=["lora", "dora with dropout, averages and parts"],
)
def test_resumed_run_equals_the_whole_one_bit_by_bit(dataset, base, tmp_path, options):
    whole = finetune(run(dataset, base, tmp_path / "whole", **options)).checkpoint
    steps = iter([False, True])
    finetune(run(dataset, base, tmp_path / "parts", **options), should_stop=lambda: next(steps))
    torch.manual_seed(99)  # whatever the new process did before
    parts = finetune(FinetuneSettings(output=tmp_path / "parts", resume=True)).checkpoint
    assert parts.name == whole.name == "checkpoint-4"
    for file in ("adapter_model.safetensors", "trained.safetensors", "base_checkpoint.json"):
        assert (parts / file).read_bytes() == (whole / file).read_bytes(), file
    states = [torch.load(path / "trainer_state.pt") for path in (whole, parts)]
    moments = [state["optimizer"]["state"] for state in states]
    assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])


def test_an_adapter_can_be_the_base_of_another_one(dataset, adapter, tmp_path):
    second = finetune(run(dataset, adapter, tmp_path, lora_targets=("diffusion",), tune_visual=False)).checkpoint
    assert read_adapter(second).base.path == str(adapter.resolve())
    below, above = (load_model(load_checkpoint(path)).state_dict() for path in (adapter, second))
    changed = {name for name in above if not torch.equal(below[name], above[name])}
    assert changed
    assert not any(name.startswith(("backbone.vision", "backbone.language")) for name in changed)


def test_a_base_that_is_elsewhere_or_another_one(adapter, base, tmp_path, monkeypatch):
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(adapter, moved)
    shutil.copytree(base, other)
    reference = json.loads((moved / "base_checkpoint.json").read_text())
    (moved / "base_checkpoint.json").write_text(json.dumps({**reference, "path": str(tmp_path / "gone")}))
    with pytest.raises(CheckpointError, match=f"its base checkpoint is not at .*/gone .*; set {BASE_VARIABLE}"):
        load_model(load_checkpoint(moved))
    monkeypatch.setenv(BASE_VARIABLE, str(other))
    expected = load_model(load_checkpoint(adapter)).state_dict()
    for name, weight in load_model(load_checkpoint(moved)).state_dict().items():
        assert torch.equal(weight, expected[name]), name
    with (other / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\1")
    with pytest.raises(CheckpointError, match=r"is not the base of .*: its weights have the digest"):
        load_model(load_checkpoint(moved))
    faults = [str(finding) for finding in audit_checkpoint(moved, reads_values=False) if finding.is_fault]
    assert any("is not the base of" in fault for fault in faults)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("adapter_config.json", {"peft_type": "LOHA"}, "adapters with type LOHA are not supported"),
        ("adapter_config.json", {"bias": "all"}, "adapters with bias are not supported"),
        ("adapter_config.json", {"r": None}, "has no rank"),
        ("adapter_config.json", {"use_dora": True}, "has missing matrices"),
        ("base_checkpoint.json", {"digest": 5}, "has no path, digest or rows"),
        ("base_checkpoint.json", {"rows": {"action_head.state_encoder.layer1.W": [1, 0]}}, "has not the rows"),
        ("base_checkpoint.json", {"rows": {"action_head.state_encoder.layer1.W": [9]}}, "do not fit the base's"),
    ],
)
def test_a_damaged_adapter_is_one_clear_error(adapter, tmp_path, file, change, message):
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **change}))
    with pytest.raises(CheckpointError, match=message):
        load_model(load_checkpoint(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_targets": ("q_proj",), "tune_llm": True}, "the language model gets adapters, but tune_llm"),
        ({"lora_targets": ("wings",)}, "'wings' is no part .* and no linear layer"),
    ],
)
def test_contradictory_choices_are_refused(base, changes, message):
    with pytest.raises(ConfigError, match=message):
        choose_trained(load_model(load_checkpoint(base)), dataclasses.replace(LORA, **changes))


def test_targets_can_be_names_of_layers(base):
    model = load_model(load_checkpoint(base))
    choose_trained(model, dataclasses.replace(LORA, lora_targets=("q_proj", "action_head.dit.blocks.1.ff.fc1")))
    layers = [name for name, m in model.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    assert all(name.endswith(("q_proj", "blocks.1.ff.fc1")) for name in layers)
    assert "backbone.vision.layers.0.self_attn.q_proj" in layers
    assert "action_head.dit.blocks.1.ff.fc1" in layers


def test_fresh_weights_get_no_adapters(dataset, tmp_path):
    checkpoint = new_checkpoint("n1_compact", EMBODIMENT, dataset_statistics(dataset, EMBODIMENT))
    with pytest.raises(ConfigError, match="adapters need a saved checkpoint"):
        Trainer(LORA, dataset, checkpoint, Gr00tModel(checkpoint.config), tmp_path)


def test_resume_with_other_adapters_is_refused(dataset, base, tmp_path):
    finetune(run(dataset, base, tmp_path), should_stop=lambda: True)
    other = dataclasses.replace(LORA, lora_rank=2, lora_targets=("llm",))
    settings = FinetuneSettings(output=tmp_path, resume=True, trainer=other)
    with pytest.raises(ConfigError, match="lora_rank: found 4, expected 2; lora_targets: found"):
        finetune(settings)


def test_activations_computed_twice_give_the_same_gradients(fixtures_dir):
    model, batch = read_tiny(fixtures_dir / "n1_tiny")
    choose_trained(model, dataclasses.replace(LORA, tune_projector=False))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    kept = copy.deepcopy(model)
    change_blocks(model, recomputes=True)
    for each in (kept, model):
        torch.manual_seed(3)
        each.train().loss(batch, *noise_of(batch)).backward()
    expected = {name: parameter.grad for name, parameter in kept.named_parameters() if parameter.grad is not None}
    assert any(".lora_A." in name for name in expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-5, atol=1e-6)


def test_a_robot_needs_no_peft(adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    Policy.from_checkpoint(adapter, device="cpu")
    with pytest.raises(ConfigError, match=r"lora_rank: adapters need the library peft .* pip install"):
        choose_trained(load_model(load_checkpoint(adapter)), LORA)


@pytest.mark.slow
@pytest.mark.parametrize("quantizes", [False, True], ids=["bfloat16", "4 bits"])
def test_blocks_with_adapters_are_compiled_whole_and_train_in_float32_under_autocast(base, quantizes):
    if quantizes:
        pytest.importorskip("bitsandbytes")
    checkpoint = load_checkpoint(base)
    model = load_model(checkpoint)
    choose_trained(model, LORA)
    TrainedWeights(model.train(), [1], torch.bfloat16, is_whole=False, quantizes=quantizes)
    model.to("cpu")
    pipeline, rng = checkpoint.pipeline(), np.random.default_rng(0)
    action = {key: rng.normal(size=(16, v.dim)) for key, v in EMBODIMENT.action.items()}
    observation = observation_from_frames(make_frames(EMBODIMENT, 1), EMBODIMENT, "lift the cube")
    batch = pipeline.collate([pipeline.encode(observation, action, rng, training=True)])
    torch._dynamo.reset()
    losses = []
    for compiles in (False, True):
        for block in model.blocks() if compiles else ():
            block.compile(backend="eager", dynamic=False, fullgraph=True)  # a break in a graph is an error
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            losses.append(model.loss(batch, *noise_of(batch)))
    losses[1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-3)
    trained = {name: x for name, x in model.named_parameters() if x.requires_grad}
    assert {x.dtype for x in trained.values()} == {torch.float32}
    assert all(x.grad is not None and x.grad.dtype == torch.float32 for x in trained.values())
    frozen = {x.dtype for name, x in model.named_parameters() if name not in trained and name.startswith("backbone.")}
    assert frozen == ({torch.bfloat16, torch.uint8} if quantizes else {torch.bfloat16})
