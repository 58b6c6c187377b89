# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Parts of prompts that several families share."""

from __future__ import annotations

QWEN3_VOCABULARY = 151669  # entries before the tokens of N1.5 and N1.6; N1.7 adds none
CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SYSTEM_TURN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
ANSWER_START = "<|im_start|>assistant\n"
EAGLE_IMAGE_TOKEN = "<IMG_CONTEXT>"
EAGLE_IMAGE = "<image {i}><img>{tokens}</img>"
EAGLE_TOKENS = (
    EAGLE_IMAGE_TOKEN,
    "<img>",
    "</img>",
    "<box>",
    "</box>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<interval>",
    "</interval>",
)
