# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Say what the installed torch was built for, and whether it reaches the GPU."""

from __future__ import annotations

import json
import warnings


def main() -> None:
    """Print version, CUDA version, architectures and the GPU's capability."""
    import torch

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    found = {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda or "",
        "is_available": is_available,
        "reason": str(heard[0].message) if heard else "",
        "architectures": torch.cuda.get_arch_list() if is_available else [],
        "capability": list(torch.cuda.get_device_capability()) if is_available else [],
        "error": "",
    }
    if is_available:
        try:
            torch.ones(8, device="cuda").sum().item()
        except RuntimeError as error:
            found["error"] = str(error).splitlines()[0]
    print(f"\n{json.dumps(found)}")


if __name__ == "__main__":
    main()
