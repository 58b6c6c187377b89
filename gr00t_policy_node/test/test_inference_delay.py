# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Answers that are held back to measure latency."""

from gr00t_policy_node.inference.delay import DelayedAnswers


def test_answers_come_at_their_time_in_order_and_once() -> None:
    given: list[str] = []
    answers = DelayedAnswers()
    answers.add(0, 100, lambda: given.append("first"))
    answers.add(50, 150, lambda: given.append("second"))
    answers.release(99)
    assert given == []
    answers.release(100)
    assert given == ["first"]
    answers.release(400)
    answers.release(500)
    assert given == ["first", "second"]


def test_answers_of_another_task_or_time_are_dropped() -> None:
    given: list[int] = []
    answers = DelayedAnswers()
    answers.add(0, 100, lambda: given.append(1))
    answers.clear()
    answers.add(1000, 1100, lambda: given.append(2))
    answers.release(200)  # the clock was set back
    answers.release(2000)
    assert given == []


def test_an_answer_may_give_the_next_one() -> None:
    """Delivering holds no lock: the controller's own callbacks may drop the answers."""
    answers = DelayedAnswers()
    answers.add(0, 1, answers.clear)
    answers.release(1)
