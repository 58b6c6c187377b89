# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers that are published without a `tokenizer.json`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece")

from gr00t_test_support.reference_files import ReferenceFiles  # noqa: E402
from gr00t_training.checkpoint.tokenizer import find_tokenizer, stored_tokenizer, tokenizer_file  # noqa: E402
from gr00t_training.errors import CheckpointError, ConfigError  # noqa: E402
from gr00t_training.model.families.n1_6 import N1_6  # noqa: E402
from gr00t_training.model.families.n1_7 import N1_7  # noqa: E402
from gr00t_training.transforms.text import PromptTokenizer  # noqa: E402
from gr00t_training.transforms.tokenizer_file import read_tokenizer  # noqa: E402

INSTRUCTIONS = ("pick up the RED cube, 12 cm!", "naïve  café 漢字\n", "don't")
SENTENCES = ("pick up the red cube and place it in the box", "open the drawer", "close the gripper quickly")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gr00t" / "tokenizers"


@pytest.fixture(params=["n1_6_tiny", "n1_7_tiny"])
def published(request: pytest.FixtureRequest, fixtures_dir: ReferenceFiles) -> Path:
    return fixtures_dir / request.param / "backbone"


def copy_layout(published: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"):
        shutil.copy(published / name, folder / name)
    return folder


def make_sentencepiece(folder: Path, kind: str = "bpe") -> Path:
    folder.mkdir(parents=True)
    (folder / "text.txt").write_text("\n".join(SENTENCES * 40))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=340 if kind == "bpe" else 40,
        model_type=kind,
        byte_fallback=kind == "bpe",
        user_defined_symbols=["<|im_start|>", "<|im_end|>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    return folder


def test_vocabulary_and_merges_give_the_ids_of_the_published_tokenizer_json(published: Path, tmp_path: Path):
    release = N1_6 if "n1_6" in str(published) else N1_7
    folder = tmp_path / "model"
    copy_layout(published, folder / "backbone")
    found = find_tokenizer(folder, None, release.prompt)
    expected = PromptTokenizer.from_file(published / "tokenizer.json", release.prompt)
    tokenizer = PromptTokenizer.from_file(found, release.prompt)
    for instruction in INSTRUCTIONS:
        assert tokenizer.encode(instruction, [4]) == expected.encode(instruction, [4])
    assert (tokenizer.pad_id, tokenizer.image_token_id) == (expected.pad_id, expected.image_token_id)
    assert tokenizer_file(folder) == folder / "backbone" / "vocab.json"


def test_a_sentencepiece_model_gives_the_ids_of_its_own_library(tmp_path: Path):
    folder = make_sentencepiece(tmp_path / "model")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    found = stored_tokenizer(folder)
    assert found is not None
    tokenizer = read_tokenizer(found)
    for text in (*SENTENCES, *INSTRUCTIONS, "lift it<|im_end|>"):
        text = " ".join(text.split())  # the library joins spaces, which prompts keep
        assert tokenizer.encode(text, add_special_tokens=False).ids == reference.encode(text)
    assert find_tokenizer(None, folder / "tokenizer.model", N1_7.prompt) == found


def test_a_conversion_is_kept_and_needs_its_library_once(
    published: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second = (copy_layout(published, tmp_path / name) for name in ("a", "b"))
    found = stored_tokenizer(first)
    assert found is not None
    assert found.parent == cache
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert stored_tokenizer(first) == found
    assert stored_tokenizer(second) == found
    (second / "merges.txt").write_text(
        (second / "merges.txt").read_text().rpartition("\n")[0].rpartition("\n")[0] + "\n"
    )
    with pytest.raises(
        ConfigError, match=r"b: has its tokenizer as vocab\.json with merges\.txt, and transformers is "
    ):
        stored_tokenizer(second)
    assert [file.name for file in cache.iterdir()] == [found.name]


def test_a_missing_library_is_named_with_the_command(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    folder = copy_layout(published, tmp_path / "model")
    with pytest.raises(
        CheckpointError,
        match=r"transformers is not installed: pip install 'gr00t_training\[transformers\]', or put its token",
    ):
        find_tokenizer(folder, None, N1_7.prompt)
    given = tmp_path / "tokenizer.json"
    given.write_text("{}")
    assert find_tokenizer(folder, given, N1_7.prompt) == given  # what another place has is used as before
    shutil.copy(published / "tokenizer.json", folder)
    assert find_tokenizer(folder, None, N1_7.prompt) == folder / "tokenizer.json"


def test_the_library_is_not_told_of_other_files_or_code(published: Path, tmp_path: Path):
    folder, plain = copy_layout(published, tmp_path / "model"), copy_layout(published, tmp_path / "plain")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    config["tokenizer_file"] = str(published / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text('{"model_type": "gr00t_n1"}')
    assert stored_tokenizer(folder) == stored_tokenizer(plain)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "tokenizer_config.json").unlink(),
            r"has vocab\.json with .* but no tokenizer_config",
        ),
        (
            lambda folder: (folder / "vocab.json").write_text("[1, 2"),
            r"vocab\.json with merges\.txt cannot be converted",
        ),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), r"tokenizer_config\.json: "),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "NoSuchTokenizer"}'),
            r"vocab\.json with merges\.txt ",
        ),
    ],
)
def test_damaged_files_are_one_message(fixtures_dir: ReferenceFiles, tmp_path: Path, cache: Path, damage, message: str):
    folder = copy_layout(fixtures_dir / "n1_7_tiny" / "backbone", tmp_path / "model")
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        stored_tokenizer(folder)
    assert "\n" not in str(raised.value)


def test_a_tokenizer_that_no_release_has_is_refused(tmp_path: Path, cache: Path):
    folder = make_sentencepiece(tmp_path / "model", "unigram")
    config = {"tokenizer_class": "T5Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"SentencePiece tokenizer\.model"):
        stored_tokenizer(folder)
    assert not cache.exists()
