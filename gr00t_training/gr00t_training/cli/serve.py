# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_serve`: answer observations of robots over the network; ends at Ctrl-C or SIGTERM.

Clients: `gr00t_training.serve.client`, and those of the GR00T N1.5 and N1.7 releases.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from gr00t_training.cli.arguments import add
from gr00t_training.cli.command import run_command, shown_name
from gr00t_training.cli.parser import CommandParser
from gr00t_training.cli.serve_replicas import replica_count, serve_replicas, update_replicas
from gr00t_training.embodiment import embodiment_or_tag
from gr00t_training.errors import ConfigError
from gr00t_training.io.text import check_instruction, one_line
from gr00t_training.policy.policy import Policy
from gr00t_training.serve.access import TOKEN_VARIABLE, bind_address, check_exposure, find_token
from gr00t_training.serve.metrics import MetricsPage, PrometheusObserver
from gr00t_training.serve.observer import Observer
from gr00t_training.serve.pace import batch_sizes
from gr00t_training.serve.replica_process import Recipe
from gr00t_training.serve.server import PolicyServer
from gr00t_training.serve.server_settings import ServerSettings
from gr00t_training.serve.wire import Wire
from gr00t_training.settings import add_arguments, from_arguments

logger = logging.getLogger(__name__)

NAME = "gr00t_serve"
MODULE = "gr00t_training.cli.serve"  # whose `__name__` is another one when it is run
SWITCH_INTERVAL_S = 0.0001  # with Python's 5 ms the thread of the sockets or of the GPU waits that long for others
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; return 0 after SIGINT or SIGTERM, but 130 or 143 while the checkpoint is still loading."""
    return run_command(NAME, lambda: _serve(_parser().parse_args(arguments)))


def _serve(options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    with _signals_restored():
        try:
            serve(options)
        except torch.cuda.OutOfMemoryError as error:
            raise ConfigError(f"{one_line(error)} End other programs on the GPU, or lower --max-batch.") from error


def serve(options: argparse.Namespace) -> None:
    """Load the policy, run it once, and serve until a signal.

    Raises:
        Gr00tError: options, checkpoint and embodiment do not fit each other, or the address cannot be used.
    """
    if options.update is not None:
        update_replicas(options)
        return
    settings = from_arguments(ServerSettings, options)
    _check_instruction(options.instruction)
    token = find_token(options.api_token, options.token_file)
    check_exposure(bind_address(settings.host), token, settings.insecure)  # before the checkpoint is loaded
    paths = checkpoint_paths(options)
    if options.replicas:
        if settings.metrics_port:
            raise ConfigError("--metrics-port: not with --replicas, which are several servers; leave one out")
        serve_replicas(options, settings, Recipe(f"{MODULE}:replica_server", (options, settings, token)))
        return
    policies = {name: load_policy(options, path) for name, path in paths.items()}
    serve_policies(policies, settings, token=token, instruction=options.instruction)


def checkpoint_paths(options: argparse.Namespace) -> dict[str, str]:
    """Return the paths of the checkpoints by name, the first one first.

    Raises:
        ConfigError: a name is missing, or occurs twice.
    """
    paths = {_name(options.checkpoint): options.checkpoint}
    for given in options.checkpoints or ():
        name, separator, path = given.partition("=")
        if not separator or not name or not path:
            raise ConfigError(f"--checkpoint: found '{given}', expected NAME=PATH, such as towel=run/checkpoint-10000")
        if name in paths:
            raise ConfigError(f"--checkpoint: duplicate name '{name}'; robots choose by it, give each another one")
        paths[name] = path
    return paths


def load_policy(options: argparse.Namespace, path: str) -> Policy:
    """Load the policy of a checkpoint with the options.

    Raises:
        Gr00tError: checkpoint and embodiment do not fit each other.
    """
    return Policy.from_checkpoint(
        path,
        embodiment=embodiment_or_tag(options.embodiment) if options.embodiment else None,
        device=options.device,
        denoising_steps=options.denoising_steps,
        seed=options.seed,
        dtype=DTYPES.get(options.dtype),
        tokenizer=options.tokenizer,
        data_config=options.data_config,
        fps=options.fps,
    )


def replica_server(
    options: argparse.Namespace,
    settings: ServerSettings,
    token: str | None,
    checkpoint: str,
    host: str,
    observer: Observer,
) -> PolicyServer:
    """Load the policies, `checkpoint` first, and listen on any free port of a host; for one of several replicas."""
    paths = checkpoint_paths(argparse.Namespace(**{**vars(options), "checkpoint": checkpoint}))
    policies = {name: load_policy(options, path) for name, path in paths.items()}
    settings = dataclasses.replace(settings, host=host, port=0)
    server = prepared_server(policies, settings, token, options.instruction, observer)
    calm_python()
    return server


def serve_policies(
    policies: Mapping[str, Policy], settings: ServerSettings, *, token: str | None, instruction: str | None
) -> None:
    """Prepare the policies, print one line when they are ready, and serve until a signal.

    Args:
        policies: by the name of their checkpoint; the first one answers clients that name none.
        settings: of the server.
        token: required in every request; None: no token.
        instruction: prompts of its length need no preparation later; None: not known.

    Raises:
        Gr00tError: the address or the port of the metrics cannot be used.
    """
    models = {name: policy.checkpoint.family.model_type for name, policy in policies.items()}
    (name, policy), *others = policies.items()
    observer = PrometheusObserver(models) if settings.metrics_port else None
    with ExitStack() as stack:
        server = prepared_server(policies, settings, token, instruction, observer)
        stack.enter_context(server)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.stop())
        if observer is not None:
            weights = {each: found.weight_bytes for each, found in policies.items()}
            observer.watch(lambda: server.num_waiting, lambda: server.num_connections, policy.device_memory, weights)
            stack.callback(MetricsPage(observer, settings.metrics_port).close)
        embodiment = policy.embodiment
        print(
            f"{shown_name(NAME)}: ready at {server.address}: {name} ({models[name]}), embodiment {embodiment.name} "
            f"({embodiment.fingerprint()}), {'token required' if token else 'no token'}"
            + "".join(f"; {each} ({models[each]}), embodiment {found.embodiment.name}" for each, found in others),
            flush=True,
        )
        calm_python()
        server.serve()


def calm_python() -> None:
    """Keep the interpreter from stopping the thread of the GPU for long."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()  # looking at all objects of the libraries again stops every thread for a tenth of a second


def prepared_server(
    policies: Mapping[str, Policy],
    settings: ServerSettings,
    token: str | None,
    instruction: str | None,
    observer: Observer | None = None,
) -> PolicyServer:
    """Run the policies once, capture their graphs, and listen."""
    times_s: dict[str, dict[int, float]] = {}
    for name, policy in policies.items():
        policy.warm_up(instruction)
        if instruction is not None and policy.overlaps:
            found = times_s[name] = policy.prepare_batches(instruction, batch_sizes(settings.max_batch))
            logger.info("%s: %s", name, ", ".join(f"{size} in {1e3 * took:.1f} ms" for size, took in found.items()))
    (name, policy), *others = policies.items()
    family = policy.checkpoint.family
    server = PolicyServer(
        policy,
        settings,
        token=token,
        name=name,
        model=family.model_type,
        usual_wire=Wire(family.wire),
        observer=observer,
        others={each: (found, found.checkpoint.family.model_type) for each, found in others},
    )
    for name, found in times_s.items():
        server.expect(found, name)
    return server


def _name(checkpoint: str) -> str:
    return os.path.basename(os.path.normpath(checkpoint))


def _parser() -> CommandParser:
    parser = CommandParser(NAME, description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="Folder of the checkpoint, or hub id.")
    parser.add_argument(
        "--checkpoint",
        dest="checkpoints",
        action="append",
        metavar="NAME=PATH",
        help="One more checkpoint on the same GPU, for robots that name it; repeatable. Other options are for all.",
    )
    add(parser, "--embodiment", "Or an embodiment tag of the checkpoint.")
    add(parser, "--data-config", "With an embodiment tag.")
    add(parser, "--fps", "With an embodiment tag.")
    add(parser, "--tokenizer")
    add(parser, "--device")
    add(parser, "--dtype", "(default: bfloat16 on a GPU)")
    add(parser, "--denoising-steps")
    add(parser, "--seed", "(default: random)")
    add(parser, "--instruction", "Prepared at the start.")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"File with the token (default: that of {TOKEN_VARIABLE})."
    )
    parser.add_argument("--api-token", metavar="TOKEN", help="The token itself; other users of the machine can see it.")
    parser.add_argument(
        "--replicas",
        type=replica_count,
        metavar="N|MIN..MAX",
        help="Servers behind this address, one GPU each, by Ray Serve; MIN..MAX: by their load (default: this process "
        "alone).",
    )
    parser.add_argument(
        "--name", metavar="NAME", help="Of the replicas in their Ray cluster (default: gr00t_serve_PORT)."
    )
    parser.add_argument(
        "--update", metavar="NAME", help="Let the running replicas of this name serve CHECKPOINT instead, and end."
    )
    add(parser, "--ray-address", "For --replicas and --update.")
    add_arguments(parser, ServerSettings)
    return parser


def _check_instruction(instruction: str | None) -> None:
    if instruction is not None:
        try:
            check_instruction(instruction)
        except ValueError as error:
            raise ConfigError(f"--instruction: {error}") from error


@contextmanager
def _signals_restored() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    raise SystemExit(main())
