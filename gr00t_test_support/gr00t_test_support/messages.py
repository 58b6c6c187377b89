# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""List the error messages of the suite as they are in its source, so that their wording is reviewed in one place.

python -m gr00t_test_support.messages > gr00t_bringup/test/messages.txt
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("gr00t_training", "gr00t_recorder", "gr00t_policy_node", "gr00t_bringup", "gr00t_console")


def list_messages(root: Path) -> str:
    """Return the messages of all raised errors, a line each, under the name of their module.

    Args:
        root: of the repository. Values are shown as `{}`; a message that is not a literal is left out.
    """
    parts = []
    for package in PACKAGES:
        for path in sorted((root / package / package).rglob("*.py")):
            found = list(dict.fromkeys(_messages(ast.parse(path.read_text(encoding="utf-8")))))
            if found:
                parts.append("\n".join([str(path.relative_to(root / package)), *(f"    {text}" for text in found)]))
    return "\n".join(parts) + "\n"


def list_texts(root: Path) -> Iterator[str]:
    """Yield every text of the source of the packages, messages or not; values are shown as `{}`."""
    for package in PACKAGES:
        for path in sorted((root / package / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                text = _template(node) if isinstance(node, ast.expr) else ""
                if " " in text:
                    yield " ".join(text.split())


def _messages(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in node.exc.args:
                text = _template(argument)
                if text and " " in text:
                    yield " ".join(text.split())


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return ""


if __name__ == "__main__":
    print(list_messages(Path(__file__).parents[2]), end="")
