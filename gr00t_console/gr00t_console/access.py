# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Who may open the page: hosts, origins, token and cookie; pure functions of what a browser sends.

Without a token only this machine may ask, and only under a name of this machine: a page of another site whose name
resolves to 127.0.0.1 (DNS rebinding) is refused by its `Host`. With a token a browser signs in once and gets a cookie.
Requests that change something also need an `Origin` that is this server, so no other page can send them.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from gr00t_training.serve.access import token_matches

COOKIE = "gr00t_console"
MIN_TOKEN = 16  # characters of a token that somebody chose
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Access:
    """Rules of one server."""

    token: str | None  # None: only this machine, without signing in

    def is_host_allowed(self, host: str) -> bool:
        """Whether the `Host` of a request is a name under which this server may be asked."""
        return self.token is not None or _without_port(host.lower()) in LOCAL_NAMES

    def is_origin_allowed(self, origin: str | None, host: str) -> bool:
        """Whether a page of `origin` may change something; programs other than browsers send none."""
        return origin is None or origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")

    def is_signed_in(self, cookies: str) -> bool:
        """Whether the `Cookie` header proves that the browser knew the token."""
        if self.token is None:
            return True
        try:
            found = SimpleCookie(cookies).get(COOKIE)
        except CookieError:
            return False
        return token_matches(found.value if found else None, self.cookie_value)

    def accepts(self, token: str) -> bool:
        """Whether a browser that sends this token is signed in."""
        return self.token is not None and token_matches(token, self.token)

    @property
    def cookie_value(self) -> str:
        """What a browser keeps instead of the token."""
        return hmac.new((self.token or "").encode(), b"gr00t console session", hashlib.sha256).hexdigest()


def _without_port(host: str) -> str:
    name, separator, port = host.rpartition(":")
    return name if separator and port.isdigit() else host
