"""Passwords out of everything that is shown or stored: URLs in any text keep their place and lose their secrets."""

from __future__ import annotations

import re

STARS = "***"
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/\s'\"]*@)?(?P<rest>[^\s'\"]*)")
_QUERY = re.compile(
    r"(?P<key>[?&;][^=&?;\s]*(?:pass|pwd|token|secret|key|auth|sig|user|login|credential)[^=&?;\s]*=)[^&;\s'\"]*",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` with user names and passwords of its URLs, and query values that sound like secrets, as `***`."""

    def hide(found: re.Match[str]) -> str:
        user = f"{STARS}@" if found["user"] else ""
        return found["scheme"] + user + _QUERY.sub(rf"\g<key>{STARS}", found["rest"])

    return _URL.sub(hide, text)


def host_only(url: str) -> str:
    """`scheme://host/***`: receivers often carry their secret in the path."""
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#]*@)?([^/?#]*).*$", rf"\1\2/{STARS}", url, flags=re.DOTALL)
