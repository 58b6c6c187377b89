# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Frozen layers in 4 bits, and an optimizer with moments in 8 bits, on the CPU."""

import dataclasses
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
pytest.importorskip("peft")
pytest.importorskip("bitsandbytes")

from gr00t_test_support.builders import make_checkpoint, make_embodiment, record_episode  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model  # noqa: E402
from gr00t_training.errors import ConfigError  # noqa: E402
from gr00t_training.model.config import BackboneConfig, DitConfig, LanguageConfig, VisionConfig  # noqa: E402
from gr00t_training.model.families import variants  # noqa: E402
from gr00t_training.train.data.fit import dataset_statistics  # noqa: E402
from gr00t_training.train.finetune import finetune  # noqa: E402
from gr00t_training.train.quantize import bitsandbytes, quantize_linears  # noqa: E402
from gr00t_training.train.settings import FinetuneSettings, Optimizer, Quantization, TrainerSettings  # noqa: E402
from gr00t_training.train.trainer import Trainer  # noqa: E402

torch.set_num_threads(1)
EMBODIMENT = make_embodiment()
SETTINGS = TrainerSettings(batch_size=2, max_steps=4, save_steps=2, device="cpu", seed=1, tune_visual=False)
NF4 = {"quantize_base": Quantization.NF4}
ADAMW8BIT = {"optimizer": Optimizer.ADAMW8BIT}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record_episode(tmp_path_factory.mktemp("dataset"), EMBODIMENT, 7)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A compact model with fewer layers: the kernels of 4 bits are slow on a CPU."""
    compact = variants()["n1_compact"].config
    vision = VisionConfig(hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2, image_size=168)
    language = dataclasses.replace(compact.backbone.language, intermediate_size=64, num_layers=1)
    assert isinstance(language, LanguageConfig)
    backbone = dataclasses.replace(compact.backbone, vision=vision, language=language, select_layer=1)
    assert isinstance(backbone, BackboneConfig)
    dit = DitConfig(num_heads=2, head_dim=32, num_layers=2, output_dim=64, dropout=0.0)
    head = dataclasses.replace(compact.action_head, dit=dit, hidden_size=64)
    config = dataclasses.replace(compact, backbone=backbone, action_head=head)
    return make_checkpoint(tmp_path_factory.mktemp("base") / "model", EMBODIMENT, config=config)


def run(dataset, base, output, **changes):
    trainer = dataclasses.replace(SETTINGS, **changes)
    return FinetuneSettings(output=output, dataset=dataset.path, base_model=base, trainer=trainer, preflight=False)


def make_trainer(dataset, base, output, **changes):
    checkpoint = load_checkpoint(base, embodiment=EMBODIMENT, statistics=dataset_statistics(dataset, EMBODIMENT))
    return Trainer(dataclasses.replace(SETTINGS, **changes), dataset, checkpoint, load_model(checkpoint), output)


def test_frozen_layers_are_stored_in_4_bits_and_saved_as_they_were_loaded(dataset, base, tmp_path):
    trainer = make_trainer(dataset, base, tmp_path, **NF4)
    weights = dict(trainer.model.backbone.named_parameters())
    stored = {name for name, weight in weights.items() if weight.dtype == torch.uint8}
    assert "language.layers.0.self_attn.q_proj.weight" in stored
    assert "vision.layers.0.mlp.fc1.weight" in stored
    assert weights["linear.weight"].dtype == torch.float32  # it trains
    saved = load_model(load_checkpoint(trainer.train())).state_dict()
    before = load_model(load_checkpoint(base)).state_dict()
    assert saved.keys() == before.keys()
    changed = {name for name in saved if not torch.equal(saved[name], before[name])}
    assert changed
    assert not any(name.startswith(("backbone.language", "backbone.vision")) for name in changed)


def test_features_through_4_bits_are_near_those_of_whole_weights(base):
    layer = torch.nn.Linear(128, 96).requires_grad_(False)
    model = torch.nn.Sequential(layer)
    x = torch.randn(8, 128, generator=torch.Generator().manual_seed(0), requires_grad=True)
    expected = layer(x).detach()
    quantize_linears(model)
    found = model.to("cpu")(x)
    error = (found - expected).norm() / expected.norm()
    assert 0.001 < error < 0.15  # NF4 keeps about 10 %
    found.sum().backward()
    gradient = layer.weight.sum(0).expand_as(x)
    assert (x.grad - gradient).norm() / gradient.norm() < 0.15


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_adapters_train_over_4_bits_and_are_saved_for_the_whole_base(dataset, base, tmp_path, dora):
    path = finetune(run(dataset, base, tmp_path, lora_rank=2, dora=dora, **NF4)).checkpoint
    before, merged = (load_model(load_checkpoint(folder)).state_dict() for folder in (base, path))
    name = "backbone.language.layers.0.self_attn.q_proj.weight"
    change = (merged[name] - before[name]).norm() / before[name].norm()
    assert 0 < change < 0.01  # the error of 4 bits would be 10 %


@pytest.mark.parametrize(
    "options", [ADAMW8BIT, {**ADAMW8BIT, **NF4, "lora_rank": 8}], ids=["8-bit moments", "with adapters and 4 bits"]
)
def test_resumed_run_equals_the_whole_one_bit_by_bit(dataset, base, tmp_path, options):
    whole = finetune(run(dataset, base, tmp_path / "whole", **options)).checkpoint
    steps = iter([False, True])
    finetune(run(dataset, base, tmp_path / "parts", **options), should_stop=lambda: next(steps))
    torch.manual_seed(99)  # whatever the new process did before
    parts = finetune(FinetuneSettings(output=tmp_path / "parts", resume=True)).checkpoint
    found, expected = (load_model(load_checkpoint(path)).state_dict() for path in (parts, whole))
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
    state = torch.load(whole / "trainer_state.pt")["optimizer"]["state"]
    types = {x.dtype for moments in state.values() for x in moments["__bnb_optimizer_quant_state__"].values()}
    assert torch.uint8 in types


def test_moments_in_8_bits_train_as_whole_ones_do(dataset, base, tmp_path):
    losses = {}
    for name, options in (("whole", {}), ("8 bits", ADAMW8BIT)):
        trainer = make_trainer(dataset, base, tmp_path / name, max_steps=6, learning_rate=1e-3, **options)
        trainer.train()
        losses[name] = trainer.loss
    assert losses["8 bits"] == pytest.approx(losses["whole"], rel=0.02)
    assert losses["8 bits"] != losses["whole"]


def test_nothing_to_quantize_is_refused(dataset, base, tmp_path):
    with pytest.raises(ConfigError, match="quantize_base: all layers of the backbone train"):
        make_trainer(dataset, base, tmp_path, tune_llm=True, tune_visual=True, **NF4)


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"optimizer: needs the library bitsandbytes .* pip install"):
        bitsandbytes("optimizer")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA GPU")
def test_on_a_gpu_graphs_and_plain_steps_give_the_same_loss(dataset, base, tmp_path):
    losses = {}
    for graphs in (False, True):
        options = {**ADAMW8BIT, **NF4, "lora_rank": 4, "cuda_graphs": graphs, "compile_blocks": False}
        trainer = make_trainer(dataset, base, tmp_path / str(graphs), device="cuda", max_steps=8, **options)
        trainer.train()
        losses[graphs] = trainer.loss
    assert losses[True] == pytest.approx(losses[False], rel=0.02)
