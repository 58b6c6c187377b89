# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of the policy node."""

from __future__ import annotations

from dataclasses import dataclass

from gr00t_policy_node.chunking.motion import Curve
from gr00t_policy_node.chunking.player import ExecutionMode
from gr00t_policy_node.control.person import Engage, TeleopMode
from gr00t_training.io.text import check_instruction
from gr00t_training.serve.images import ImageForm
from gr00t_training.serve.wire import Wire
from gr00t_training.settings import setting


@dataclass(frozen=True)
class PolicyParameters:
    """Parameters of the policy node, set at start; `instruction` and `seed` also later."""

    checkpoint_path: str = setting("", "Checkpoint's folder or name on the hub; not with a server.")
    server: str = setting("", "Policy server, host:port; empty: the model runs in this process.")
    server_wire: Wire = setting(Wire.N1_7, "Form of messages: n1.7 or n1.5; gr00t_serve takes both.", read_only=True)
    server_token_file: str = setting("", "File of its token; empty: GR00T_API_TOKEN or none.", read_only=True)
    server_timeout_s: float = setting(1.0, "Longest wait for an answer [s].", ge=0.05, le=60.0, read_only=True)
    server_images: ImageForm = setting(ImageForm.RAW, "raw; jpeg or png with gr00t_serve only.", read_only=True)
    server_checkpoint: str = setting(
        "", "One of a gr00t_serve's checkpoints, by name; empty: its first.", read_only=True
    )
    topics_file: str = setting("", "Topic map (YAML); empty is refused at configure.", read_only=True)
    limits_file: str = setting("", "Joint limits (YAML); empty: those of a URDF alone.", read_only=True)
    urdf_file: str = setting("", "URDF with the limits of joints that limits_file does not name.", read_only=True)
    urdf_topic: str = setting("", "Latched topic of that URDF (robot_description); not with a file.", read_only=True)
    instruction: str = setting("", "Task to start with at activation; empty: wait for one.")
    device: str = setting("auto", "Where the model runs: auto, cpu, cuda, cuda:1.", read_only=True)
    num_threads: int = setting(0, "Threads of a model on the CPU; 0: PyTorch's choice.", ge=0, le=256, read_only=True)
    denoising_steps: int = setting(
        0, "Steps of the flow-matching sampler; 0: the release's.", ge=0, le=100, read_only=True
    )
    seed: int = setting(
        -1, "Seed of the sampler's noise, which starts again with every task; -1: it goes on.", ge=-1, le=2**63 - 1
    )
    inference_period_s: float = setting(
        0.2, "Shortest time between policy queries [s]; in simulated time between their observations.", ge=0.0, le=10.0
    )
    control_rate_hz: float = setting(50.0, "Rate of commands [Hz].", ge=1.0, le=1000.0, read_only=True)
    answer_delay_ticks: int = setting(
        0,
        "Control ticks from an observation until its answer may count: measures what latency costs; 0 on a robot.",
        ge=0,
        le=1000,
        read_only=True,
    )
    execution: ExecutionMode = setting(
        ExecutionMode.RECEDING_HORIZON,
        "receding_horizon: the newest chunk; temporal_ensemble: mean of all that cover the time; real_time_chunking: "
        "each chunk continues the one being executed.",
        read_only=True,
    )
    curve: Curve = setting(Curve.LINEAR, "Between two rows of a chunk: linear or cubic.", read_only=True)
    rtc_ramp_rate: float = setting(
        6.0, "How soon a continued chunk goes its own way; higher is sooner.", ge=0.1, le=100.0, read_only=True
    )
    max_input_gap_s: float = setting(10.0, "Unusable inputs for so long latch a stop [s]; 0: never.", ge=0.0, le=3600.0)
    max_silence_s: float = setting(10.0, "No new chunk for so long latches a stop [s]; 0: never.", ge=0.0, le=3600.0)
    max_clock_stall_s: float = setting(
        1.0,
        "A simulated clock that does not advance for this long holds the robot [s]; a simulator in lock-step waits.",
        ge=0.1,
        le=3600.0,
        read_only=True,
    )
    max_state_ranges: float = setting(
        3.0,
        "At activation, refuse a state so many times its range outside what training saw (wrong unit); 0: any.",
        ge=0.0,
        le=1000.0,
        read_only=True,
    )
    max_violations: int = setting(0, "So many limited commands in a second latch a stop; 0: never.", ge=0, le=100000)
    stop_topic: str = setting(
        "~/stop", "Topic (std_msgs/msg/Bool) on which true latches a stop; empty: none.", read_only=True
    )
    teleop: TeleopMode = setting(
        TeleopMode.TASK,
        "When a person on ~/teleop may command: never; task: while a task runs; always: also without one.",
        read_only=True,
    )
    teleop_engage: Engage = setting(
        Engage.APPROACH,
        "If a person engages far from the robot: approach them slowly, or align: hold until they are near.",
        read_only=True,
    )
    teleop_timeout_s: float = setting(
        0.1, "A device in control that is silent for so long holds the robot [s].", ge=0.01, le=10.0, read_only=True
    )
    teleop_align_s: float = setting(
        0.05, "Near is what a joint reaches in this time at its full speed [s].", ge=0.0, le=10.0, read_only=True
    )
    teleop_approach_speed: float = setting(
        0.2, "Speed of the approach, as a share of max_velocity.", ge=0.001, le=1.0, read_only=True
    )
    motion_speed: float = setting(
        0.2, "Speed of ~/move_to, as a share of the limits.", ge=0.001, le=1.0, read_only=True
    )
    dry_run: bool = setting(False, "Publish chunks and status, but no commands.")
    autostart: bool = setting(False, "Configure and activate at start, without a lifecycle manager.", read_only=True)

    def __post_init__(self) -> None:
        if self.instruction:
            check_instruction(self.instruction, "parameter 'instruction'")
