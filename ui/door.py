"""Who may talk to the app: the person who started it, from a page of the app itself, and nobody else.

A server on 127.0.0.1 is open to every web page in the same browser, by cross-site requests and by names that are made to point
at 127.0.0.1 (DNS rebinding). So every request must name us as its host, come from our own page, and carry a cookie that only
the link from the terminal hands out. After Jupyter's model. For other computers (`--lan`) there is a password beside the link;
its cookie ends with the password, and who comes from there opens no files but those of the workspace's data and models.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from gradio.context import LocalContext
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainer_core import models
from trainer_core.config import STARTER
from trainer_core.data import hub
from trainer_core.durable import write_atomically
from trainer_core.errors import DataError, ModelError
from trainer_core.runs import Workspace

BITS = 256
COOKIE_DAYS = 30
OPEN_PATHS = frozenset({"/gradio_api/startup-events", "/manifest.json"})
"""Gradio asks itself for the first, and browsers fetch the second without cookies. Neither tells or does anything."""
ENTER = "/tunebench/enter"
"""Where the password is sent."""
WRONG_SECONDS = 1.0
"""A wrong password waits so long, one after another: guessing eight letters would take thousands of years."""
FORM_BYTES = 1024
SHORTEST = 8
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
"""Gradio needs inline script and eval; what no script can do is fetch from, or send to, another place."""


class Keys:
    """The secret of the cookie, and the one link that hands it out. Both lie in the workspace, which only its owner can read.

    The file `link` always holds the next unused link, so a second start of the app shows one that works.
    """

    def __init__(self, folder: Path, address: str, password: str = "", names: Iterable[str] = ()):
        """With a `password` the app answers to the computer's `names` in its network too, after asking for it."""
        self.address, self.link = address, folder / "app.address"
        self.password, self.names = password, tuple(names)
        self.secret = kept_secret(folder / "app.secret")
        bound = hmac.new(self.secret.encode(), password.encode(), "sha256").hexdigest()
        self.network_secret = bound if password else ""
        self.issue()

    def issue(self) -> str:
        """Write a new link, which ends the one before."""
        link = f"{self.address}/?token={secrets.token_hex(BITS // 8)}"
        write_atomically(self.link, link)
        return link

    def redeem(self, token: str) -> bool:
        """Is this the token of the current link? Then it is used up."""
        current = parse_qs(urlsplit(self.link.read_text(encoding="utf-8")).query).get("token", [""])[0]
        if not same(token, current):
            return False
        self.issue()
        return True


def kept_secret(file: Path) -> str:
    """Kept from start to start, so that a page that is open outlives the app."""
    if not file.exists():
        write_atomically(file, secrets.token_hex(BITS // 8))
    return file.read_text(encoding="utf-8")


def same(one: str, other: str) -> bool:
    """Compared in a time that does not tell how much of it was right. Nothing is never right."""
    return bool(other) and hmac.compare_digest(one.encode(), other.encode())


@dataclass(frozen=True)
class Refused(Exception):
    status: int
    why: str


class Door:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, keys: Keys):
        self.app, self.keys = app, keys
        place = urlsplit(keys.address)
        self.hosts = {f"{name}:{place.port}" for name in ("127.0.0.1", "localhost", "[::1]", *keys.names)}
        self.cookie = f"tunebench-{place.port}"
        self.asked = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        try:
            response = self.judge(scope)
            if scope["path"] == ENTER and scope["method"] == "POST" and self.keys.password:
                response = await self.enter(Request(scope, receive))
        except Refused as refused:
            response = PlainTextResponse(refused.why, refused.status, HEADERS)
        if response is None:
            return await self.app(scope, receive, guarded(send))
        return await response(scope, receive, send)

    def judge(self, scope: Scope) -> Response | None:
        """None: let it in.

        Raises:
            Refused: with the reason.
        """
        headers = Headers(scope=scope)
        if scope["type"] != "http":
            raise Refused(403, "Tunebench uses no web sockets.")
        host = headers.get("host", "")
        if host not in self.hosts:
            raise Refused(400, "This address is not Tunebench's: use the link that it printed.")
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            raise Refused(403, "Requests from other pages are refused.")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise Refused(403, "Requests from other pages are refused. Open Tunebench by the link that it printed.")
        return self.admit(scope, headers)

    def admit(self, scope: Scope, headers: Headers) -> Response | None:
        token = self.token(headers)
        if same(token, self.keys.secret) or same(token, self.keys.network_secret) or scope["path"] in OPEN_PATHS:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and scope["method"] == "GET" and self.keys.redeem(given):
            return self.welcome(self.keys.secret)
        if self.keys.password and (scope["path"], scope["method"]) in (("/", "GET"), (ENTER, "POST")):
            return question("")
        raise Refused(
            401,
            "Tunebench is open, but this browser does not have its key yet.\n\nOpen the link that Tunebench printed when it "
            "started. It works once; start `python launch.py` again, and it prints a new one.",
        )

    async def enter(self, request: Request) -> Response:
        """The cookie for the right password; guesses wait for each other."""
        if int(request.headers.get("content-length") or FORM_BYTES + 1) > FORM_BYTES:
            raise Refused(413, "That is longer than any password.")
        given = parse_qs((await request.body()).decode("utf-8", "replace")).get("password", [""])[0]
        async with self.asked:
            if same(given, self.keys.password):
                return self.welcome(self.keys.network_secret)
            await asyncio.sleep(WRONG_SECONDS)
        return question("That was not the password.")

    def token(self, headers: Headers) -> str:
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return ""
        return cookies[self.cookie].value if self.cookie in cookies else ""

    def welcome(self, secret: str) -> Response:
        """Hand out the cookie, and lead to an address without the token in it."""
        response = RedirectResponse("/", 303, HEADERS)
        days = COOKIE_DAYS * 24 * 3600
        response.set_cookie(self.cookie, secret, max_age=days, httponly=True, samesite="strict")
        return response


def from_elsewhere() -> bool:
    """Does the request that is being answered come from another computer? Gradio knows it for questions and events alike."""
    request = LocalContext.request.get(None)
    return bool(request and request.client and not ipaddress.ip_address(request.client.host).is_loopback)


def check_source(workspace: Workspace, source: str | None, ours: Collection[str]) -> None:
    """Who sits at this computer may open any file; from elsewhere it is a set of `ours`, of the Hub, or of the workspace's data.

    Raises:
        DataError: it is another file.
    """
    if not source or source in ours or not from_elsewhere() or hub.is_name(source):
        return
    if not Path(source).expanduser().resolve().is_relative_to(workspace.data.resolve()):
        raise DataError(
            f"{source} cannot be opened from another computer: from there only dropped files, the workspace's own data and names "
            "of the Hub can. Nothing was read. Drop the file into the Data tab."
        )


def check_model(workspace: Workspace, name: str) -> None:
    """Who sits at this computer may open any folder as a model; from elsewhere it is the starter, one of the Hub or of `models`.

    Raises:
        ModelError: it is another folder, whether it is there or not.
    """
    folder = models.place(name)
    if not from_elsewhere() or name == STARTER or models.on_the_hub(name):
        return
    if folder is None or not folder.resolve().is_relative_to(workspace.models.resolve()):
        raise ModelError(
            f"{name} cannot be opened from another computer: from there only the starter, models of the Hub and the workspace's "
            "own can. Nothing was read. Choose one of the list, or start the run where Tunebench is."
        )


def question(said: str) -> Response:
    """The page that asks for the password."""
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<title>Tunebench</title><style>body{font:16px system-ui;margin:20vh auto;max-width:22em;color-scheme:light dark}"
        "input,button{font:inherit;padding:.5em;margin:.5em 0;width:100%;box-sizing:border-box}</style>"
        f'<h1>Tunebench</h1><p role="status">{said}</p><form method="post" action="{ENTER}"><label for="password">Password, as '
        'shown where Tunebench was started</label><input id="password" name="password" type="password" autofocus '
        'autocomplete="current-password"><button>Open</button></form></html>',
        401,
        HEADERS,
    )


def guarded(send: Send) -> Send:
    """What goes out gets our headers."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return with_headers
