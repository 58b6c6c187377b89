# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Command `gr00t_serve`: answer observations of robots over the network; ends at Ctrl-C or SIGTERM.

Clients: `gr00t_training.serve.client`, and those of the GR00T N1.5 and N1.7 releases.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from gr00t_training.embodiment import Embodiment, load_embodiment, shipped_embodiments
from gr00t_training.errors import Gr00tError
from gr00t_training.policy import Policy
from gr00t_training.serve.access import TOKEN_VARIABLE, bind_address, check_exposure, find_token
from gr00t_training.serve.server import PolicyServer, ServerSettings
from gr00t_training.settings import add_arguments, from_arguments

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; return 0 after a signal, or 2 after an error on one line."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        with _signals_restored():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # while the checkpoint is loaded
            serve(options)
    except Gr00tError as error:
        print(f"gr00t_serve: error: {error}", file=sys.stderr)
        return 2
    except torch.cuda.OutOfMemoryError as error:
        print(f"gr00t_serve: error: {str(error).splitlines()[0]} End what else uses the GPU.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def serve(options: argparse.Namespace) -> None:
    """Load the policy, run it once, and answer until a signal comes.

    Raises:
        Gr00tError: options, checkpoint and embodiment do not fit each other, or the address cannot be used.
    """
    settings = from_arguments(ServerSettings, options)
    token = find_token(options.api_token, options.token_file)
    check_exposure(bind_address(settings.host), token, settings.insecure)  # before a checkpoint is loaded for nothing
    policy = Policy.from_checkpoint(
        options.checkpoint,
        embodiment=_embodiment(options.embodiment),
        device=options.device,
        denoising_steps=options.denoising_steps,
        seed=options.seed,
        dtype=DTYPES.get(options.dtype),
        tokenizer=options.tokenizer,
        data_config=options.data_config,
        fps=options.fps,
    )
    policy.warm_up(options.instruction)
    name = os.path.basename(os.path.normpath(options.checkpoint))
    model = policy.checkpoint.config.model_type
    with PolicyServer(policy, settings, token=token, name=name, model=model) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.stop())
        embodiment = policy.embodiment
        print(
            f"gr00t_serve: ready at {server.address}: {name} ({model}), embodiment {embodiment.name} "
            f"({embodiment.fingerprint()}), {'token required' if token else 'no token'}",
            flush=True,
        )
        server.serve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gr00t_serve", description=__doc__)
    parser.add_argument("checkpoint", help="Folder of the checkpoint, or its name on the hub.")
    parser.add_argument("--embodiment", help="Shipped embodiment, its file, or an embodiment tag of the checkpoint.")
    parser.add_argument("--data-config", help="With a tag of N1 or N1.5: published choice of keys and scaling.")
    parser.add_argument("--fps", type=int, help="With a tag of N1.6 or N1.7: tick rate, which their files do not tell.")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, for a checkpoint that has none.")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto).")
    parser.add_argument("--dtype", choices=list(DTYPES), help="Of the model (default: bfloat16 on a GPU).")
    parser.add_argument("--denoising-steps", type=int, help="Steps of the sampler (default: the release's).")
    parser.add_argument("--seed", type=int, help="Seed of the sampler's noise (default: another each time).")
    parser.add_argument("--instruction", default="", help="What the robot will be told, to be prepared for it.")
    parser.add_argument("--token-file", type=Path, help=f"File with the token (default: that of {TOKEN_VARIABLE}).")
    parser.add_argument("--api-token", help="The token itself; other users of the machine can see it.")
    add_arguments(parser, ServerSettings)
    return parser


def _embodiment(name: str | None) -> Embodiment | str | None:
    """Return the embodiment of that name or file; any other name is a tag, which the checkpoint has to know."""
    is_ours = name in shipped_embodiments() or Path(name or "").suffix in (".yaml", ".yml", ".json")
    return load_embodiment(name) if name and is_ours else name


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
