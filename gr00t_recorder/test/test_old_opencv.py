# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The suite imports with OpenCV 4.5.4 of Ubuntu 22.04, and uses no name that is missing there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SUITE = Path(__file__).parents[2]
# Every name of OpenCV that the suite uses and that 4.5.4 has. Look a new one up in its documentation before adding it.
NAMES_OF_4_5_4 = {
    "BORDER_CONSTANT",
    "BORDER_REFLECT_101",
    "COLOR_BGR2RGB",
    "COLOR_BGRA2RGB",
    "COLOR_BayerBG2RGB",
    "COLOR_BayerGB2RGB",
    "COLOR_BayerGR2RGB",
    "COLOR_BayerRG2RGB",
    "COLOR_GRAY2RGB",
    "COLOR_HSV2RGB",
    "COLOR_RGB2BGR",
    "COLOR_RGB2GRAY",
    "COLOR_RGB2HSV",
    "COLOR_RGBA2RGB",
    "COLOR_YUV2RGB_UYVY",
    "COLOR_YUV2RGB_YUY2",
    "FONT_HERSHEY_SIMPLEX",
    "IMREAD_COLOR",
    "IMREAD_GRAYSCALE",
    "IMREAD_IGNORE_ORIENTATION",
    "IMREAD_UNCHANGED",
    "IMWRITE_JPEG_QUALITY",
    "INTER_AREA",
    "INTER_LINEAR",
    "INTER_NEAREST",
    "INTER_NEAREST_EXACT",
    "LINE_AA",
    "LUT",
    "addWeighted",
    "cvtColor",
    "error",
    "getRotationMatrix2D",
    "imdecode",
    "imencode",
    "putText",
    "resize",
    "setNumThreads",
    "warpAffine",
}
PROGRAM = """
import sys, types
import cv2

class Old(types.ModuleType):
    def __getattr__(self, name):
        if name in {names}:
            return getattr(real, name)
        raise AttributeError("OpenCV 4.5.4 has no " + name)

real, sys.modules["cv2"] = cv2, Old("cv2")
import numpy as np
import gr00t_recorder.bag.batch, gr00t_recorder.topics.frames, gr00t_training.serve.images
from types import SimpleNamespace
from gr00t_recorder.topics.images import decode_raw
image = SimpleNamespace(height=4, width=4, encoding="bayer_rggb8", step=4, is_bigendian=0, data=bytes([9, 0, 0, 0] * 4))
assert decode_raw(image, ()).shape == (4, 4, 3)
"""


def test_no_name_that_opencv_4_5_4_lacks_is_used() -> None:
    used = set()
    for path in SUITE.glob("gr00t_*/gr00t_*/**/*.py"):
        used |= {(path.name, name) for name in re.findall(r"\bcv2\.([A-Za-z_]\w*)", path.read_text())}
    assert used and {(file, name) for file, name in used if name not in NAMES_OF_4_5_4} == set()


def test_the_recorder_imports_and_decodes_with_it() -> None:
    program = PROGRAM.format(names=sorted(NAMES_OF_4_5_4))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
