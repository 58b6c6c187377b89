# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The processes of a run, one for each GPU; `torchrun`, `accelerate launch` or SLURM starts them.

`Processes` is a process alone, which asks nobody, and `LaunchedProcesses` one of several. What they tell each other
outside of a step (whether to stop, which statistics, whose error) goes through the CPU's gloo, so that nothing waits
for a GPU. What they exchange in a step is in `exchange`, weights that are split over them in `sharding`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from gr00t_training.errors import ConfigError, Gr00tError
from gr00t_training.io.text import one_line
from gr00t_training.model.gr00t import Gr00tModel
from gr00t_training.policy.device import choose_device
from gr00t_training.train.exchange import Exchange

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
PARALLEL = ("ddp", "fsdp")  # whole weights in every process, or weights that are split over them
EXIT_OTHER_FAILED = 1  # of a process that ends because another one failed
_LOST = "another process of this run ended without a message; see the launcher's report, then continue with --resume"


class Processes:
    """A process alone."""

    rank = 0
    size = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes, logs and prints."""
        return self.rank == 0

    def choose_device(self, name: str) -> torch.device:
        """Return the device of this process.

        Raises:
            ConfigError: there is no such device.
        """
        return choose_device(name)

    def exchange(
        self, model: Gr00tModel, device: torch.device, seed: int, parallel: str, computes_in: torch.dtype | None
    ) -> Exchange | None:
        """Prepare a model that is trained by all processes; None: this one trains it alone.

        Args:
            model: moved to the device; its weights are split in place where `parallel` is fsdp.
            device: as chosen.
            seed: of the random numbers.
            parallel: one of PARALLEL.
            computes_in: type in which float32 parts compute; None: as they are.

        Raises:
            ConfigError: a library is missing, or `parallel` is unknown.
        """
        if parallel not in PARALLEL:
            raise ConfigError(f"parallel '{parallel}' is unknown, expected {' or '.join(PARALLEL)}")
        return None

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in some process."""
        return flag

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any(False)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their ranks."""
        return [value]

    def check_same(self, facts: Mapping[str, object]) -> None:
        """Refuse to train with processes that differ, such as machines with other files.

        Args:
            facts: name -> what must be the same in all processes.

        Raises:
            ConfigError: names what differs.
        """
        found = self.gather(dict(facts))
        for rank, other in enumerate(found):
            names = [name for name, value in other.items() if value != found[0][name]]
            if names:
                raise ConfigError(
                    f"process {rank} of {self.size} differs from the first one in: {', '.join(names)}; give all "
                    "machines the same files and options"
                )

    def from_main(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in the main process; the others wait for it."""
        return make()

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors with those that are split put together, on the host; empty in other processes than the main.

        All processes must call it with the same names.
        """
        return dict(tensors)


class LaunchedProcesses(Processes):
    """One of several processes; see `join`."""

    def __init__(self) -> None:
        """Describe this process, whose process group is there."""
        from torch import distributed

        self._group = distributed
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        self._accelerator: Accelerator | None = None

    def choose_device(self, name: str) -> torch.device:
        """Return the GPU whose number is that of the process on its machine, or the CPU; see the base class."""
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if name not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device '{name}': each of several processes takes its own GPU; use auto, cuda or cpu")
        if name != "cpu" and torch.cuda.is_available():
            if local >= torch.cuda.device_count():
                raise ConfigError(
                    f"process {local} of this machine has no GPU, {torch.cuda.device_count()} found; start as many "
                    "processes as there are GPUs: torchrun --nproc-per-node gpu"
                )
            torch.cuda.set_device(local)  # before anything takes memory of the first GPU
        device = choose_device(name)
        if device.type == "cuda":
            device = torch.device("cuda", local)
        self._accelerator = _accelerator(device)
        return device

    def exchange(
        self, model: Gr00tModel, device: torch.device, seed: int, parallel: str, computes_in: torch.dtype | None
    ) -> Exchange:
        """Prepare a model, see the base class."""
        super().exchange(model, device, seed, parallel, computes_in)
        if parallel == "ddp":
            return Exchange(model.to(device), model.planned_loss, seed, is_split=False)
        from gr00t_training.train.sharding import split

        assert self._accelerator is not None, "the device is chosen first"
        return Exchange(model, split(model, self._accelerator, computes_in), seed, is_split=True)

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in some process."""
        found = torch.tensor(int(flag))
        self._group.all_reduce(found)
        return bool(found)

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes."""
        values: list[Any] = [None] * self.size
        self._group.all_gather_object(values, value)
        return values

    def from_main(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in the main process."""
        values = [make() if self.is_main else None]
        self._group.broadcast_object_list(values, src=0)
        return values[0]  # type: ignore[return-value]

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors put together, see the base class."""
        found = {}
        for name, tensor in tensors.items():
            is_split = hasattr(tensor, "full_tensor")
            value = tensor.detach().full_tensor() if is_split else tensor  # type: ignore[attr-defined]
            if self.is_main:
                found[name] = value.cpu() if is_split else value
        return found

    def fails_first(self) -> bool:
        """Return whether no other process has failed before this one; only then it says why."""
        with contextlib.suppress(RuntimeError):  # the launcher has ended
            return self._store().add("gr00t/failed", 1) == 1
        return self.is_main

    def _store(self) -> Any:
        return self._group.distributed_c10d._get_default_store()


def is_launched() -> bool:
    """Return whether a launcher started this process with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def join() -> Processes:
    """Meet the other processes that the launcher started; a process that was started by hand is alone.

    Raises:
        ConfigError: a library is missing, or the processes do not find each other.
    """
    if not is_launched():
        return Processes()
    from torch import distributed

    if not distributed.is_initialized():
        _import_accelerate()
        try:
            distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        except (RuntimeError, ValueError) as error:  # no address, or nobody there
            raise ConfigError(
                f"the {os.environ['WORLD_SIZE']} processes of this run do not find each other "
                f"({one_line(error)[:200]}); start them with torchrun, or unset WORLD_SIZE and RANK"
            ) from error
    return LaunchedProcesses()


def run_launched(action: Callable[[], int]) -> int:
    """Run the action of a command in one of several processes; only the main one prints.

    Of several errors the first is raised. All other processes end in silence, since they fail only because of it.

    Raises:
        SystemExit: another process failed before.
    """
    with _silence(int(os.environ["RANK"]) > 0):
        processes = join()
        assert isinstance(processes, LaunchedProcesses)
        try:
            code = action()
            processes.wait()  # a process that ends too early would look like a lost one
        except BaseException as error:
            if isinstance(error, SystemExit) and not error.code:  # after the help
                raise
            for number in (signal.SIGTERM, signal.SIGHUP):  # the launcher ends the others when one has failed
                signal.signal(number, signal.SIG_IGN)
            if not processes.fails_first():
                raise SystemExit(EXIT_OTHER_FAILED) from None
            if _is_loss(error):
                raise Gr00tError(_LOST) from error
            if isinstance(error, Gr00tError) and processes.rank:
                raise type(error)(f"process {processes.rank} of {processes.size}: {error}") from error
            raise
    torch.distributed.destroy_process_group()
    return code


def end_launched(code: int) -> int:
    """Return the exit code; after a failure end at once, since the exchange with the other processes may hang."""
    if torch.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _accelerator(device: torch.device) -> Accelerator:
    """Return accelerate's view of the processes, without what its configuration file or environment asks for."""
    accelerate = _import_accelerate()
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"):
        os.environ.pop(name, None)  # set by `accelerate launch`; our own setting decides
    return accelerate.Accelerator(cpu=device.type == "cpu", mixed_precision="no")


def _import_accelerate() -> Any:
    try:
        import accelerate
    except ImportError as error:
        raise ConfigError("several processes need accelerate; install it: pip install accelerate==1.15.0") from error
    return accelerate


def _is_loss(error: BaseException) -> bool:
    """Return whether an error says that the connection to another process broke."""
    from torch import distributed

    found: BaseException | None = error
    while found is not None:
        if isinstance(found, (distributed.DistBackendError, distributed.DistNetworkError)):
            return True
        if isinstance(found, RuntimeError) and "gloo" in str(found):
            return True
        found = found.__context__  # a signal of the launcher may come while a loss is handled
    return False


@contextlib.contextmanager
def _silence(is_silent: bool) -> Iterator[None]:
    if not is_silent:
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
