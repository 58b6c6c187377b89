# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Who may open the page and who may change something, by what a browser sends."""

import pytest

from gr00t_console.access import COOKIE, Access

TOKEN = "a token that somebody chose"
LOCAL, REMOTE = Access(None), Access(TOKEN)


@pytest.mark.parametrize("host", ["localhost:8600", "127.0.0.1:8600", "[::1]:8600", "LOCALHOST", "127.0.0.1"])
def test_this_machine_needs_no_token(host: str) -> None:
    assert LOCAL.is_host_allowed(host)
    assert LOCAL.is_signed_in("")


@pytest.mark.parametrize("host", ["evil.example:8600", "robot.local", "127.0.0.1.evil.example", "", "localhost.evil"])
def test_a_foreign_name_of_this_machine_is_refused(host: str) -> None:
    """DNS rebinding: a site whose name suddenly means 127.0.0.1."""
    assert not LOCAL.is_host_allowed(host)
    assert REMOTE.is_host_allowed(host)  # there the cookie decides, which belongs to one name


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9999", "http://localhost"])
def test_a_page_of_another_origin_changes_nothing(origin: str) -> None:
    assert not LOCAL.is_origin_allowed(origin, "localhost:8600")
    assert LOCAL.is_origin_allowed("http://localhost:8600", "localhost:8600")
    assert LOCAL.is_origin_allowed(None, "localhost:8600")  # a program that is no browser


@pytest.mark.parametrize(
    "cookies", ["", "other=1", f"{COOKIE}=", f"{COOKIE}={TOKEN}", f"{COOKIE}=\x00", "=;=", "ü=é"], ids=repr
)
def test_without_the_cookie_nobody_is_signed_in(cookies: str) -> None:
    assert not REMOTE.is_signed_in(cookies)


def test_the_token_gives_a_cookie_that_does_not_contain_it() -> None:
    assert REMOTE.accepts(TOKEN)
    assert not REMOTE.accepts("")
    assert not LOCAL.accepts("")
    assert REMOTE.is_signed_in(f"a=b; {COOKIE}={REMOTE.cookie_value}")
    assert TOKEN not in REMOTE.cookie_value
    assert not Access("another token").is_signed_in(f"{COOKIE}={REMOTE.cookie_value}")
