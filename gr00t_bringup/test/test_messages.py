# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""The wording of all error messages, in one file: other tests check types and values, not prose."""

import re
from pathlib import Path

import pytest

from gr00t_test_support.messages import PACKAGES, list_messages

ROOT = Path(__file__).parents[2]
if not all((ROOT / package / package).is_dir() for package in PACKAGES):
    pytest.skip("the suite's other packages are not here", allow_module_level=True)

# Words that a reader whose first language is another one does not search for, and what the suite says instead.
REPLACED = {
    r"\banew\b": "again, re-",
    r"\bstands? (there )?twice\b": "duplicate",
    r"\ballowed (is|are)\b": "(limit ...)",
    r"\bbeside\b": "next to, with, in addition to",
    r"\bheld against\b": "compared with",
    r"\bstrangers?\b": "unknown, out of range",
    r"\bwish(es|ed)?\b": "request",
    r"\b(has|have|is|are) gone\b": "lost, removed",
    r"\bcolour|\bgrey\b|\bcentre|\blicence\b|\bneighbour|\bbehaviour": "US spelling",
}


@pytest.fixture(scope="module")
def messages() -> str:
    return list_messages(ROOT)


def test_messages_are_those_that_were_reviewed(messages: str) -> None:
    reviewed = (Path(__file__).parent / "messages.txt").read_text(encoding="utf-8")
    assert messages == reviewed, "read the difference, then: make messages"


@pytest.mark.parametrize("pattern", REPLACED, ids=REPLACED.values())
def test_messages_are_in_plain_words(messages: str, pattern: str) -> None:
    found = [line for line in messages.splitlines() if re.search(pattern, line)]
    assert not found, f"say {REPLACED[pattern]}"
