# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Settings of fine-tuning and evaluation. Needs no torch.

The options of the commands are generated from them, and errors name a setting by its option: `--base-model`
is `base_model`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gr00t_training.dataset.episode_ranges import EPISODES_HELP
from gr00t_training.settings import check_bounds, setting
from gr00t_training.train.data_settings import StatisticsFrom

# Help of options that other commands have, too; a test compares them.
DATASET = "Folder of the dataset. s3://bucket/prefix is read through a local cache."
DEVICE = "Where the model runs: auto, cpu or cuda."
EMBODIMENT = "Embodiment: name or YAML file."
OUTPUT = "Folder to write."
SEED = "Seed of the random numbers."
TOKENIZER = "tokenizer.json, for a checkpoint without one."
# Headings of the options in the help, by the first setting of each section.
SECTIONS = {
    "max_steps": "training",
    "tune_llm": "what is trained",
    "lora_rank": "adapters (LoRA, DoRA)",
    "shuffle": "samples and images",
    "frame_cache": "caches",
    "validation_share": "validation",
    "save_steps": "checkpoints and log",
    "device": "speed and memory",
}


class Shuffle(str, Enum):
    """How the samples of a dataset are ordered."""

    AUTO = "auto"  # streams if the key frames of its videos are far apart
    FULL = "full"  # a true permutation in each epoch
    STREAMS = "streams"  # segments of episodes, many mixed at a time

    def __str__(self) -> str:
        return self.value


class Optimizer(str, Enum):
    """Optimizers."""

    ADAMW = "adamw"
    ADAMW8BIT = "adamw8bit"  # with moments in 8 bits

    def __str__(self) -> str:
        return self.value


class Quantization(str, Enum):
    """How frozen layers are stored."""

    NONE = "none"
    NF4 = "nf4"  # 4 bits

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class TrainerSettings:
    """How a model is fine-tuned.

    Raises:
        ValueError: settings contradict each other; names them and says which to change.
    """

    max_steps: int = setting(10_000, "Optimizer steps of the whole run.", ge=1, le=1_000_000_000)
    batch_size: int = setting(16, "Samples per step.", ge=1, le=65_536)
    learning_rate: float = setting(1e-4, "Highest learning rate, reached after the warm-up.", ge=0, le=10)
    weight_decay: float = setting(1e-5, "AdamW's weight decay; norms and biases have none.", ge=0, le=1000)
    warmup_ratio: float = setting(0.05, "Share of the steps in which the learning rate rises.", ge=0, le=1)
    beta1: float = setting(0.95, "AdamW's decay of the gradient's mean.", ge=0, le=1)
    beta2: float = setting(0.999, "AdamW's decay of the gradient's square.", ge=0, le=1)
    max_grad_norm: float = setting(1.0, "Norm to which gradients are clipped.", ge=0, le=1e9)
    ema_decay: float = setting(0.0, "Decay of the average of weights that is saved; 0: none.", ge=0, le=0.999999)
    seed: int = setting(42, f"{SEED} For weights, data order, augmentation and noise.", ge=0, le=2**32 - 1)
    state_dropout: float | None = setting(
        None, "Share of the samples whose state is hidden (default: the release's: N1.6 0, N1.7 0.2).", ge=0, le=1
    )
    rtc_max_delay: int = setting(
        0, "Real-time chunking: train with up to this many first rows of a chunk given; 0: none.", ge=0, le=10_000
    )
    tune_llm: bool = setting(False, "Train the language model.")
    tune_visual: bool = setting(True, "Train the vision tower and its connector.")
    tune_projector: bool = setting(True, "Train the embodiment's encoders and decoder.")
    tune_diffusion_model: bool = setting(True, "Train the diffusion transformer.")
    tune_vlln: bool = setting(True, "Train norm and self attention of the backbone's features (N1.5 to N1.7).")
    tune_top_llm_layers: int = setting(0, "Train at least this many of the last language layers.", ge=0, le=1000)
    lora_rank: int = setting(0, "Rank of adapters (LoRA) that train in place of weights; 0: none.", ge=0, le=4096)
    lora_alpha: float = setting(0.0, "Adapters are scaled by this / rank; 0: twice the rank.", ge=0, le=1e6)
    lora_dropout: float = setting(0.0, "Dropout before adapters.", ge=0, le=0.99)
    lora_targets: tuple[str, ...] = setting(
        ("llm", "visual", "diffusion"), "Parts that get adapters (also vlln), or names of layers.", metavar="PART"
    )
    dora: bool = setting(False, "Adapters also train the norms of the weights' rows (DoRA).")
    shuffle: Shuffle = setting(
        Shuffle.AUTO,
        "Order of the samples: full (a permutation), streams (mixed segments of episodes, for videos with distant key "
        "frames) or auto.",
    )
    num_workers: int | None = setting(
        None, "Processes that decode video for the trainer; 0: none (default: what the cores allow).", ge=0, le=256
    )
    augment_images: bool = setting(True, "Change crop and colors of the images at random.")
    augment_on_gpu: bool = setting(False, "Scale and change images on the GPU, where the processor is the limit.")
    image_views: int = setting(
        0, "Fixed random changes of each image, one per epoch in turn; 0: new ones in every epoch.", ge=0, le=1000
    )
    frame_cache: str = setting(
        "", "Folder for decoded images, shared between runs; auto: under the user's cache folder.", metavar="FOLDER"
    )
    frame_cache_gib: float = setting(200.0, "Limit of --frame-cache [GiB].", ge=0, le=1e6)
    feature_cache: str = setting(
        "",
        "Folder for the features of a frozen backbone, computed once; auto: as for --frame-cache.",
        metavar="FOLDER",
    )
    feature_cache_gib: float = setting(200.0, "Limit of --feature-cache [GiB].", ge=0, le=1e6)
    validation_share: float = setting(
        0.0, "Share of each task's episodes that is held out to validate the model; 0: none.", ge=0, le=0.9
    )
    validation_episodes: tuple[str, ...] = setting((), f"{EPISODES_HELP} Held out, instead of a share.", metavar="LIST")
    validate_every: int = setting(500, "Steps between validations; every checkpoint has one, too.", ge=1)
    validation_samples: int = setting(
        128, "Held-out samples that loss and action errors are measured on.", ge=1, le=65_536
    )
    save_steps: int = setting(500, "Steps between checkpoints; the last step always gets one.", ge=1)
    keep_checkpoints: int = setting(8, "Number of newest checkpoints that are kept, in addition to the best one.", ge=1)
    log_every: int = setting(10, "Steps between entries of the log.", ge=1)
    report_to: tuple[str, ...] = setting(
        ("tensorboard",), "Where figures go: tensorboard, wandb, trackio, several of them, or none.", metavar="TRACKER"
    )
    device: str = setting("auto", DEVICE)
    parallel: str = setting(
        "ddp", "With several processes: ddp (whole weights in each) or fsdp (split over them, for full fine-tuning)."
    )
    accumulate: int = setting(1, "Parts that a step's samples are computed in, to save memory.", ge=1, le=65_536)
    optimizer: Optimizer = setting(Optimizer.ADAMW, "AdamW, or with moments in 8 bits, to save memory.")
    quantize_base: Quantization = setting(Quantization.NONE, "Store frozen layers of the backbone in 4 bits: nf4.")
    checkpoint_activations: bool = setting(False, "Compute activations twice, to save memory.")
    bf16: bool = setting(True, "Compute in bfloat16 on a GPU; weights stay float32.")
    cuda_graphs: bool = setting(True, "On a GPU, run a step as one CUDA graph for each frequent shape of a batch.")
    compile_blocks: bool = setting(True, "On a GPU, compile the blocks of the model (takes up to a minute).")

    def __post_init__(self) -> None:
        for contradiction in (*_contradictions(self), *_contradictions_of_adapters(self)):
            raise ValueError(contradiction)

    @property
    def part_size(self) -> int:
        """Samples that are computed at once, by all processes together."""
        return self.batch_size // self.accumulate

    @property
    def fits_graph(self) -> bool:
        """Whether a step on a GPU is one CUDA graph, which cannot repeat the random numbers of activations."""
        repeats = self.checkpoint_activations and (self.lora_dropout > 0 or self.parallel == "fsdp")
        return self.cuda_graphs and not repeats


@dataclass(frozen=True)
class FinetuneSettings:
    """What is fine-tuned on which data.

    Raises:
        ValueError: settings contradict each other, such as `base_model` and `variant`; says which to change.
    """

    output: str | Path = setting(description=f"{OUTPUT} Checkpoints and TensorBoard logs.", metavar="FOLDER")
    dataset: tuple[str | Path, ...] | str | Path | None = setting(
        None, f"{DATASET} Several may be given. With --resume: those of the run.", metavar="FOLDER"
    )
    data: str | Path | None = setting(
        None, "YAML file with the datasets and what of each is trained on.", metavar="FILE"
    )
    embodiment: str | Path | None = setting(None, f"{EMBODIMENT} (default: the one stored in the dataset)")
    base_model: str | Path | None = setting(None, "Checkpoint to start from: folder or hub id.", metavar="CHECKPOINT")
    variant: str | None = setting(None, "Start from fresh weights of this size; the language model trains too.")
    tokenizer: str | Path | None = setting(None, TOKENIZER, metavar="FILE")
    statistics: StatisticsFrom = setting(
        StatisticsFrom.DATASET,
        "What states and actions are scaled by: statistics of the dataset, or those of --base-model.",
    )
    resume: bool = setting(False, "Continue from the last checkpoint of --output.")
    preflight: bool = setting(True, "Refuse to start what cannot train well; see --check.")
    trainer: TrainerSettings | None = setting(None, "How to train (default: see `starting_trainer`).")

    def __post_init__(self) -> None:
        if self.base_model and self.variant:
            raise ValueError("base_model and variant are both given (limit: one of them); leave one out")
        if self.dataset and self.data:
            raise ValueError("dataset and data are both given (limit: one of them); leave one out")
        if self.variant and self.statistics is StatisticsFrom.BASE:
            raise ValueError("statistics is base, and variant starts without a base model; leave one out")
        if self.trainer:
            check_bounds(self.trainer)
        if self.trainer and self.variant and self.trainer.lora_rank:
            raise ValueError(
                "lora_rank: adapters need a saved checkpoint, the weights of variant are fresh; pass --base-model, or "
                "--lora-rank 0"
            )

    @property
    def datasets(self) -> tuple[str, ...]:
        """Folders of `dataset`, however they are given."""
        given = self.dataset if isinstance(self.dataset, (tuple, list)) else (self.dataset,)
        return tuple(str(path) for path in given if path)


def _contradictions(settings: TrainerSettings) -> Iterator[str]:
    """Say which settings contradict each other, whatever the model and the data are."""
    if settings.validation_share and settings.validation_episodes:
        yield (
            "validation_share and validation_episodes are both given (limit: one of them); leave one out, or pass "
            "--validation-share 0"
        )
    if settings.batch_size % settings.accumulate:
        yield (
            f"batch_size {settings.batch_size} cannot be computed in {settings.accumulate} equal parts; choose a "
            "divisor as accumulate"
        )
    if settings.image_views and not settings.augment_images:
        yield (
            f"image_views is {settings.image_views} and augment_images is off: there is nothing to vary; leave one of "
            "--image-views and --no-augment-images out"
        )
    if settings.feature_cache and (settings.tune_visual or settings.tune_llm or settings.tune_top_llm_layers):
        yield (
            "feature_cache is given and parts of the backbone train; pass --no-tune-visual --no-tune-llm "
            "--tune-top-llm-layers 0, or leave out --feature-cache"
        )
    if settings.feature_cache and settings.augment_images and not settings.image_views:
        yield (
            "feature_cache is given and images change at random in every epoch; pass --no-augment-images, or "
            "--image-views N for N fixed views of each image, or leave out --feature-cache"
        )
    if settings.parallel == "fsdp" and settings.feature_cache:
        yield "parallel fsdp and feature_cache do not go together: a frozen backbone needs only ddp"
    if settings.parallel == "fsdp" and settings.quantize_base is not Quantization.NONE:
        yield "parallel fsdp and quantize_base do not go together: use ddp, or leave quantize_base out"
    if settings.parallel == "fsdp" and settings.optimizer is not Optimizer.ADAMW:
        yield "parallel fsdp and optimizer adamw8bit do not go together: its state is split already"


def _contradictions_of_adapters(settings: TrainerSettings) -> Iterator[str]:
    """Say which settings of adapters contradict each other or the other ones."""
    targets = settings.lora_targets
    if not settings.lora_rank:
        default = {field.name: field.default for field in dataclasses.fields(settings)}
        for name in ("dora", "lora_alpha", "lora_dropout", "lora_targets"):
            if getattr(settings, name) != default[name]:
                yield f"{name}: is of adapters, but lora_rank is 0; set lora_rank, or leave {name} out"
        return
    if not targets:
        yield "lora_targets: none given, expected parts of the model or names of layers, see --help"
    if "projector" in targets:
        yield (
            "lora_targets: 'projector' gets no adapters, the rows of one robot are small; leave it out and use "
            "tune_projector"
        )
    if "llm" in targets and (settings.tune_llm or settings.tune_top_llm_layers):
        yield (
            "lora_targets: the language model gets adapters, but tune_llm (always so for a fresh variant, which needs "
            "no adapters) or tune_top_llm_layers trains it; drop one"
        )
    backbone = [name for name in ("llm", "visual") if name in targets]
    if settings.feature_cache and backbone:
        yield (
            f"feature_cache is given and lora_targets has {' and '.join(backbone)}, whose features change; pass "
            "--lora-targets diffusion, or leave out --feature-cache"
        )
    if settings.parallel == "fsdp":
        yield "parallel fsdp and lora_rank do not go together: adapters need only ddp"
