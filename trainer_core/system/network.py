"""Whether the Hub can be reached."""

from __future__ import annotations

import socket
import urllib.request
from urllib.parse import urlsplit

HUB = "https://huggingface.co"
CONNECT_SECONDS = 5.0


def is_reachable(address: str) -> bool:
    """Is the Hub reachable? Assumed yes behind a proxy."""
    if urllib.request.getproxies():
        return True
    there = urlsplit(address)
    try:
        socket.create_connection((there.hostname, there.port or 443), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
