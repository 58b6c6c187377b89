# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Import a module as the suite would, and say what came of it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from importlib import import_module


def main(name: str) -> None:
    """Print version, file and error of a module."""
    printed = io.StringIO()
    found = {"version": "", "file": "", "error": "", "is_installed": True}
    with contextlib.redirect_stderr(printed):  # NumPy explains a clash there
        try:
            module = import_module(name)
            _load_type_support(module)
            top = sys.modules[name.partition(".")[0]]
            found["version"] = str(getattr(top, "__version__", ""))
            found["file"] = str(getattr(module, "__file__", "") or "")
        except ModuleNotFoundError as error:
            found["error"] = str(error)
            found["is_installed"] = not (error.name and f"{name}.".startswith(f"{error.name}."))
        except BaseException as error:
            found["error"] = f"{type(error).__name__}: {error}"
    if found["error"]:
        found["error"] += f" {printed.getvalue()[:2000]}"
    print(f"\n{json.dumps(found)}")


def _load_type_support(module: object) -> None:
    """Load the compiled half of a package of messages, which is otherwise loaded by the first node."""
    for each in vars(module).values():
        load = getattr(type(each), "__import_type_support__", None)
        if load is not None:
            each.__class__.__import_type_support__()
            return


if __name__ == "__main__":
    main(sys.argv[1])
