# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints leave the suite: NVIDIA's layout, model card, upload."""

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_release import contains  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from gr00t_test_support.builders import make_checkpoint, make_embodiment  # noqa: E402
from gr00t_training.checkpoint import load_checkpoint, load_model, save_checkpoint  # noqa: E402
from gr00t_training.checkpoint.audit import audit_checkpoint  # noqa: E402
from gr00t_training.checkpoint.card import make_card, write_card  # noqa: E402
from gr00t_training.checkpoint.export import export_checkpoint, tags_of_its_own  # noqa: E402
from gr00t_training.checkpoint.training_run import read_training_run, starting_run, thinned  # noqa: E402
from gr00t_training.cli import checkpoint as command  # noqa: E402
from gr00t_training.dataset.statistics.compute import KeyStatistics  # noqa: E402
from gr00t_training.errors import CheckpointError  # noqa: E402
from gr00t_training.transforms.text import shipped_tokenizer  # noqa: E402

torch.set_num_threads(1)
FAMILIES = {"n1_6_tiny": "GR1", "n1_7_tiny": "libero_sim"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_saved_here_is_exported_as_the_release_wrote_it(fixtures_dir, tmp_path, family):
    """The fixtures were written by the classes of the releases; the way through this suite changes nothing in them."""
    tiny = fixtures_dir / family
    loaded = load_checkpoint(tiny, embodiment=FAMILIES[family], fps=20)
    saved = save_checkpoint(tmp_path / "saved", loaded, load_model(loaded))
    (saved / "trainer_state.pt").write_bytes(b"state")
    exported = export_checkpoint(saved, tmp_path / "exported", base=tiny, dtype=None)
    expected, found = load_file(tiny / "model.safetensors"), load_file(exported / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name].float(), weight.float()), name
    for name in ("config.json", "processor_config.json", "statistics.json"):
        assert contains(json.loads((exported / name).read_text()), json.loads((tiny / name).read_text())), name
    names = {file.name for file in exported.iterdir() if file.is_file()}
    assert names == {
        "config.json",
        "processor_config.json",
        "statistics.json",
        "embodiment_id.json",
        "model.safetensors",
    }
    assert not [finding for finding in audit_checkpoint(exported) if finding.is_fault]
    again = load_checkpoint(exported, embodiment=FAMILIES[family], fps=20, tokenizer=loaded.tokenizer)
    assert again.embodiment == loaded.embodiment
    assert tags_of_its_own(exported) == []


@pytest.mark.parametrize("family", ["n1_tiny", "n1_5_tiny"])
def test_weights_and_sizes_of_older_releases_are_exported_unchanged(fixtures_dir, tmp_path, family):
    tiny, embodiment = fixtures_dir / family, make_embodiment()
    one = np.ones(4)
    whole = KeyStatistics(min=-one, max=one, mean=0 * one, std=one, q01=-one, q99=one)
    statistics = {kind: {"arm": whole.part(0, 3), "gripper": whole.part(3, 4)} for kind in ("state", "action")}
    tokenizer = shipped_tokenizer("compact")
    loaded = load_checkpoint(tiny, embodiment=embodiment, statistics=statistics, tokenizer=tokenizer)
    saved = save_checkpoint(tmp_path / "saved", loaded, load_model(loaded))
    exported = export_checkpoint(saved, tmp_path / "exported", base=tiny, dtype=None)
    expected, found = load_file(tiny / "model.safetensors"), load_file(exported / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].float(), weight.float()) for name, weight in expected.items())
    for name in ("config.json", "eagle_config.json"):
        assert contains(json.loads((exported / name).read_text()), json.loads((tiny / name).read_text())), name
    assert json.loads((exported / "experiment_cfg/metadata.json").read_text()).keys() == {"new_embodiment"}
    assert not (exported / "embodiment.json").exists()


def test_export_of_n1_has_the_files_of_a_published_folder_in_bfloat16(tmp_path):
    source = make_checkpoint(tmp_path / "source", make_embodiment())
    (source / "LICENSE").write_text("terms")
    exported = export_checkpoint(source, tmp_path / "exported")
    names = {file.relative_to(exported).as_posix() for file in exported.rglob("*") if file.is_file()}
    expected = {"LICENSE", "config.json", "eagle_config.json", "experiment_cfg/metadata.json", "model.safetensors"}
    assert names - {"embodiment_id.json"} == expected
    before, after = load_file(source / "model.safetensors"), load_file(exported / "model.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight.bfloat16()) for name, weight in before.items())


def test_an_output_layer_that_was_tied_follows_the_trained_embeddings(fixtures_dir, tmp_path):
    table = "backbone.model.language_model"
    embeddings, output = f"{table}.model.embed_tokens.weight", f"{table}.lm_head.weight"
    base = tmp_path / "base"
    shutil.copytree(fixtures_dir / "n1_6_tiny", base)
    weights = load_file(base / "model.safetensors")
    save_file({**weights, output: weights[embeddings].clone()}, base / "model.safetensors")
    loaded = load_checkpoint(base, embodiment="GR1", fps=20)
    model = load_model(loaded)
    with torch.no_grad():
        model.backbone.language.embed_tokens.weight += 1
    saved = save_checkpoint(tmp_path / "saved", loaded, model)
    found = load_file(export_checkpoint(saved, tmp_path / "tied", base=base) / "model.safetensors")
    assert torch.equal(found[output], found[embeddings])
    assert not torch.equal(found[output], weights[embeddings].bfloat16())


def test_weights_that_no_action_needs_come_from_the_base(tmp_path):
    source = make_checkpoint(tmp_path / "source", make_embodiment())
    base = shutil.copytree(source, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["action_head.decode_layer.weight"] = torch.full((2, 3), 7.0)
    save_file(weights, base / "model.safetensors")
    exported = export_checkpoint(source, tmp_path / "exported", base=base)
    found = load_file(exported / "model.safetensors")
    assert found["action_head.decode_layer.weight"].tolist() == [[7.0] * 3] * 2
    assert found.keys() == weights.keys()


def test_a_base_of_another_release_is_refused(fixtures_dir, tmp_path):
    source = make_checkpoint(tmp_path / "source", make_embodiment())
    with pytest.raises(CheckpointError, match=r"is a checkpoint of GR00T N1\.6.*is one of GR00T N1; pass the one that"):
        export_checkpoint(source, tmp_path / "exported", base=fixtures_dir / "n1_6_tiny")
    assert not (tmp_path / "exported").exists()


def test_export_command_verifies_what_it_wrote(tmp_path, capsys):
    source = make_checkpoint(tmp_path / "source", make_embodiment())
    assert command.main(["export", str(source), "--output", str(tmp_path / "exported")]) == 0
    assert capsys.readouterr().out == f"saved {tmp_path / 'exported'}\n"
    assert command.main(["export", str(source), "--output", str(tmp_path / "exported")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_license_of_the_base_goes_along(tmp_path):
    base = tmp_path / "hub/models--nvidia--GR00T-N1-2B/snapshots/0123abc"
    base.mkdir(parents=True)
    head = "---\nlicense: other\nlicense_name: nvidia-license\nlicense_link: LICENSE\ntags: [robotics]\n---\n# N1\n"
    (base / "README.md").write_text(head)
    run = starting_run(base)
    assert run.base == "nvidia/GR00T-N1-2B@0123abc"
    assert run.license == {"license": "other", "license_name": "nvidia-license", "license_link": "LICENSE"}
    (base / "README.md").write_text("---\nlicense: [\n---\n")
    assert starting_run(base).license == {}
    assert starting_run(None).base == ""


def test_few_losses_are_kept_and_always_the_newest():
    losses = [(step, 1.0) for step in range(1, 1001)] + [(1001, float("nan"))]
    kept = thinned(losses)
    assert len(kept) <= 24
    assert kept[-1] == (1000, 1.0)
    assert thinned(losses[:3]) == ((1, 1.0), (2, 1.0), (3, 1.0))


def test_a_card_of_a_person_is_kept_and_a_written_one_is_renewed(tmp_path):
    source = make_checkpoint(tmp_path / "source", make_embodiment())
    assert read_training_run(source) is None
    card = make_card(source, "lab/cubes")
    assert "# cubes\n" in card
    assert "| `state.arm` | j0, j1, j2 | rad | min_max |" in card
    assert "gr00t serve lab/cubes\n" in card
    assert write_card(source, card)
    assert write_card(source, card)
    (source / "README.md").write_text("mine")
    assert not write_card(source, card)
    assert (source / "README.md").read_text() == "mine"


def test_push_says_what_it_would_upload_and_what_is_missing(tmp_path, capsys, monkeypatch):
    pytest.importorskip("huggingface_hub")
    source = make_checkpoint(tmp_path / "source", make_embodiment())
    (source / "trainer_state.pt").write_bytes(bytes(10**8))
    assert command.main(["push", str(source), "lab/cubes", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"wrote {source / 'README.md'}" in out
    assert "would upload 2" in out  # MB of weights, without the state of the trainer
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert command.main(["push", str(source), "lab/cubes"]) == 2
    assert "lab/cubes: no token of the Hugging Face Hub; log in" in capsys.readouterr().err
    assert command.main(["push", str(tmp_path / "nowhere"), "lab/cubes"]) == 2
    assert "nowhere: no such folder, expected a checkpoint of this machine" in capsys.readouterr().err


def test_push_uploads_everything_but_the_state_of_the_trainer(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    source = make_checkpoint(tmp_path / "source", make_embodiment())
    for name in ("trainer_state.pt", ".token"):
        (source / name).write_bytes(b"secret")
    asked = {}

    class Api:
        def create_repo(self, name, **options):
            asked["repository"] = (name, options["repo_type"], options["private"])
            return hub.RepoUrl(f"https://huggingface.co/{name}")

        def upload_folder(self, **options):
            asked["files"] = set(
                hub.utils.filter_repo_objects(
                    [file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file()],
                    ignore_patterns=options["ignore_patterns"],
                )
            )

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    assert command.main(["push", str(source), "lab/cubes", "--private"]) == 0
    assert asked["repository"] == ("lab/cubes", "model", True)
    assert {"model.safetensors", "config.json", "README.md", "embodiment.json"} <= asked["files"]
    assert not asked["files"] & {"trainer_state.pt", ".token"}
