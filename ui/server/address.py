"""The address of the page: a host name of its own, and a file that opens a browser there without exposing the key.

Cookies ignore ports. On 127.0.0.1 every other program of the computer receives our cookie, and we receive theirs; below
`.localhost`, which browsers resolve to this computer, each workspace has a unique name. Some browsers and systems do not
resolve such names (Safari, Windows outside of the browser), so 127.0.0.1 also serves the page.
"""

from __future__ import annotations

import errno
import html
import ipaddress
import json
import secrets
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from trainer_core.system.durable import write_atomically
from ui.format import page_text

OPENER = "open-tunebench.html"
NAME_BYTES = 4
PROBE_MS = 1500
"""Time for a browser to find out that it resolves our name; otherwise it uses 127.0.0.1."""
OPENER_HTML = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="referrer" content="no-referrer">
<title>Tunebench</title><p>{opening} <a href="{by_hand}">{open_manually}</a></p>
<script>
const own = {own}, usual = {usual}, go = (address) => location.replace(address + {query});
const late = new Promise((_, no) => setTimeout(no, {milliseconds}));
const found = own ? fetch(own + "/manifest.json", {{ mode: "no-cors", credentials: "omit" }}) : Promise.reject();
Promise.race([found, late]).then(() => go(own), () => go(usual));
</script></html>
"""


def opener_page(own: str, usual: str, token: str) -> str:
    """The page on disk: it redirects to our own address if the browser resolves it, otherwise to the usual one."""
    query = f"/?token={token}"
    texts = {"own": own, "usual": usual, "query": query}
    return OPENER_HTML.format(
        opening=page_text("sign_in.opening"),
        open_manually=page_text("sign_in.open_manually"),
        by_hand=html.escape(usual + query),
        milliseconds=PROBE_MS,
        **{name: json.dumps(text) for name, text in texts.items()},
    )


def own_name(folder: Path) -> str:
    """The host name of this workspace's app, the same at every start.

    Raises:
        DiskError: it cannot be saved.
    """
    file = folder / "app.name"
    if not file.exists():
        write_atomically(file, secrets.token_hex(NAME_BYTES))
    kept = "".join(one for one in file.read_text(encoding="utf-8", errors="replace") if one in "0123456789abcdef")
    return f"tunebench-{kept[: 2 * NAME_BYTES]}.localhost"


def is_own_name(name: str, look_up: Callable[..., Iterable[tuple[Any, ...]]] = socket.getaddrinfo) -> bool:
    """Does this computer itself, not only some browsers, resolve the name to itself?"""
    try:
        found = {str(one[4][0]) for one in look_up(name, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(address).is_loopback for address in found)


def hold_port(port: int) -> socket.socket | None:
    """Hold the same port of ::1 without answering: browsers try it first for a name below `.localhost`, and no other program
    may answer there. None if the port is taken."""
    try:
        held = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError:
        return socket.socket()  # without IPv6 no program can take it
    if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
        held.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    try:
        held.bind(("::1", port))
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            held.close()
            return None
    return held
