"""Access control: only the user who started the app, from a page of the app itself.

Every web page in the same browser can reach a server on 127.0.0.1, by cross-site requests and by names that point
to 127.0.0.1 (DNS rebinding). So every request must name us as its host, come from our own page, and carry a cookie that only
the link from the terminal gives. Modelled on Jupyter. For other computers (`--lan`) there is also a password; its cookie
becomes invalid with the password, and such users can open only the files of the workspace's data and models.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from urllib.parse import parse_qs, urlsplit
from weakref import WeakValueDictionary

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainer_core.system import app_secret
from trainer_core.system.durable import write_atomically
from trainer_core.texts import Text
from ui.format import page_text
from ui.server import address as addresses

TOKEN_BITS = 256
COOKIE_DAYS = 30
OPEN_PATHS = frozenset({"/gradio_api/startup-events", "/manifest.json"})
"""Gradio requests the first itself, and browsers fetch the second without cookies. Neither reveals or changes anything."""
LOGIN_PATH = "/tunebench/enter"
"""Receives the password."""
SIGN_OUT_PATH = "/tunebench/leave"
"""Receives "Sign out everywhere"."""
WRONG_PASSWORD_SECONDS = 1.0
"""Delay after each wrong password, one at a time: guessing eight letters would take thousands of years."""
MAX_FORM_BYTES = 1024
FORM_SECONDS = 10.0
"""For the password's form, which needs no key."""
MIN_PASSWORD_LENGTH = 8
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}
"""Gradio needs inline script and eval; but scripts cannot fetch from, or send to, another host. Other sites get no referrer;
with "no-referrer" our own forms would have the origin "null" and be rejected."""


class AccessKeys:
    """The cookie's secret and the one link that gives the cookie. Both are in the workspace, readable by its owner only.

    `link` always holds the next unused link, so that a second start of the app shows a valid one. So does the page
    `opener`, which opens the browser: every user of the computer can read the arguments of a process.
    """

    def __init__(self, folder: Path, address: str, password: str = "", names: Iterable[str] = (), own: str = ""):
        """With a `password`, the app also answers to the computer's `names` in its network, and asks for the password there.

        Args:
            address: of the link that is shown.
            own: the address with our unique host name; empty if another program may answer there.
        """
        self.address, self.link, self.opener = address, folder / "app.address", folder / addresses.OPENER
        self.own, self.password, self.names, self.folder = own, password, tuple(names), folder
        self.held: socket | None = None
        """Must stay open as long as the page, see `address.py`."""
        self._secret = app_secret.AppSecret(folder)
        self.issue_link()

    @property
    def secret(self) -> str:
        return self._secret.value

    @property
    def network_secret(self) -> str:
        """Secret of users with the password; changes with it."""
        bound = hmac.new(self.secret.encode(), self.password.encode(), "sha256").hexdigest()
        return bound if self.password else ""

    def issue_link(self) -> str:
        """Write a new link, which invalidates the previous one."""
        token = secrets.token_hex(TOKEN_BITS // 8)
        link = f"{self.address}/?token={token}"
        write_atomically(self.opener, addresses.opener_page(self.own, self.usual_address, token))
        write_atomically(self.link, link)
        return link

    @property
    def usual_address(self) -> str:
        """The address that every browser resolves."""
        return f"http://127.0.0.1:{urlsplit(self.address).port}"

    def sign_out(self) -> None:
        """Invalidate all cookies and the link.

        Raises:
            DiskError: the new secret cannot be written.
        """
        app_secret.renew_secret(self.folder)
        self.issue_link()

    def redeem_token(self, token: str) -> bool:
        """Is this the token of the current link? If so, it becomes invalid."""
        current = parse_qs(urlsplit(self.link.read_text(encoding="utf-8")).query).get("token", [""])[0]
        if not is_same_secret(token, current):
            return False
        self.issue_link()
        return True


def is_same_secret(one: str, other: str) -> bool:
    """Compare in constant time. An empty secret never matches."""
    return bool(other) and hmac.compare_digest(one.encode(), other.encode())


@dataclass(frozen=True)
class RequestRejected(Exception):
    status: int
    why: Text


class AuthMiddleware:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, keys: AccessKeys, form_seconds: float = FORM_SECONDS):
        self.app, self.keys, self.form_seconds = app, keys, form_seconds
        place, own = urlsplit(keys.address), urlsplit(keys.own).hostname
        names = ("127.0.0.1", "localhost", "[::1]", *([own] if own else []), *keys.names)
        self.hosts = {f"{name}:{place.port}" for name in names}
        self.cookie = f"tunebench-{place.port}"
        self.login_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        try:
            response = self.check_request(scope)
            if scope["path"] == SIGN_OUT_PATH and scope["method"] == "POST":
                response = self.sign_out(Headers(scope=scope))
            if scope["path"] == LOGIN_PATH and scope["method"] == "POST" and self.keys.password:
                response = await self.log_in(Request(scope, receive))
        except RequestRejected as refused:
            response = PlainTextResponse(str(refused.why), refused.status, HEADERS)
        if response is None:
            return await self.app(scope, receive, with_security_headers(send))
        return await response(scope, receive, send)

    def check_request(self, scope: Scope) -> Response | None:
        """Check a request; None: pass it to the app.

        Raises:
            RequestRejected: with the reason.
        """
        headers = Headers(scope=scope)
        if scope["type"] != "http":
            raise RequestRejected(403, Text("access.web_socket"))
        host = headers.get("host", "")
        if host not in self.hosts:
            raise RequestRejected(400, Text("access.other_address"))
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            raise RequestRejected(403, Text("access.other_page"))
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            if is_page_load(scope, headers) and self.keys.redeem_token(
                given
            ):  # from the page on disk, which is another site
                return self.set_cookie(self.keys.secret, led=True)
            raise RequestRejected(403, Text("access.other_site"))
        return self.authenticate(scope, headers, given)

    def authenticate(self, scope: Scope, headers: Headers, given: str = "") -> Response | None:
        if self.find_cookie(headers) or scope["path"] in OPEN_PATHS:
            return None
        if scope["path"] == "/" and scope["method"] == "GET" and self.keys.redeem_token(given):
            return self.set_cookie(self.keys.secret)
        if self.keys.password and (scope["path"], scope["method"]) in (("/", "GET"), (LOGIN_PATH, "POST")):
            return password_page("")
        raise RequestRejected(401, Text("access.no_key"))

    async def log_in(self, request: Request) -> Response:
        """Give the cookie for the right password. Guesses of one address are checked one at a time, and keep no other waiting."""
        if int(request.headers.get("content-length") or MAX_FORM_BYTES + 1) > MAX_FORM_BYTES:
            raise RequestRejected(413, Text("access.long_password"))
        try:
            form = await asyncio.wait_for(request.body(), self.form_seconds)
        except TimeoutError:
            raise RequestRejected(408, Text("access.slow_password")) from None
        given = parse_qs(form.decode("utf-8", "replace")).get("password", [""])[0]
        lock = self.login_locks.setdefault(request.client.host if request.client else "", asyncio.Lock())
        async with lock:
            if is_same_secret(given, self.keys.password):
                return self.set_cookie(self.keys.network_secret)
            await asyncio.sleep(WRONG_PASSWORD_SECONDS)
        return password_page(str(Text("access.wrong_password")))

    def find_cookie(self, headers: Headers) -> str:
        """Our valid cookie among those of other programs on this computer; empty if there is none."""
        given = [one.partition("=") for line in headers.getlist("cookie") for one in line.split(";")]
        ours = (value.strip().strip('"') for name, _, value in given if name.strip() == self.cookie)
        right = self.keys.secret, self.keys.network_secret
        return next((value for value in ours if any(is_same_secret(value, one) for one in right)), "")

    def sign_out(self, headers: Headers) -> Response:
        """Sign out everywhere, on request of a user with the link.

        Raises:
            RequestRejected: the user came through the network.
        """
        if not is_same_secret(self.find_cookie(headers), self.keys.secret):
            raise RequestRejected(403, Text("access.no_sign_out"))
        self.keys.sign_out()
        response = HTMLResponse(render_signed_out_page(), 200, HEADERS)
        response.delete_cookie(self.cookie, httponly=True, samesite="strict")
        return response

    def set_cookie(self, secret: str, led: bool = False) -> Response:
        """Set the cookie and redirect to an address without the token.

        Args:
            led: from another site. A redirect would still count as that site's, and the browser would not send the cookie.
        """
        response = HTMLResponse(REDIRECT_PAGE, 200, HEADERS) if led else RedirectResponse("/", 303, HEADERS)
        days = COOKIE_DAYS * 24 * 3600
        response.set_cookie(self.cookie, secret, max_age=days, httponly=True, samesite="strict")
        return response


REDIRECT_PAGE = (
    '<!doctype html><meta charset="utf-8"><title>Tunebench</title><meta http-equiv="refresh" content="0;url=/">'
    '<a href="/">Tunebench</a>'
)


def render_signed_out_page() -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Tunebench</title>'
        "<style>body{font:16px system-ui;margin:20vh auto;max-width:26em;color-scheme:light dark}</style>"
        f"<h1>{page_text('sign_in.signed_out')}</h1><p>{page_text('sign_in.all_signed_out')}</p>"
        f"<p>{page_text('sign_in.new_link')}</p></html>"
    )


def is_page_load(scope: Scope, headers: Headers) -> bool:
    """Is a whole page opened by its address, not inside another page?"""
    to = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return scope["path"] == "/" and scope["method"] == "GET" and to == ("navigate", "document")


def password_page(message: str) -> Response:
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<title>Tunebench</title><style>body{font:16px system-ui;margin:20vh auto;max-width:22em;color-scheme:light dark}"
        "input,button{font:inherit;padding:.5em;margin:.5em 0;width:100%;box-sizing:border-box}</style>"
        f'<h1>Tunebench</h1><p role="status">{message}</p><form method="post" '
        f'action="{LOGIN_PATH}"><label for="password">{page_text("sign_in.password")}</label>'
        '<input id="password" name="password" type="password" autofocus '
        f'autocomplete="current-password"><button>{page_text("sign_in.open")}</button></form></html>',
        401,
        HEADERS,
    )


def with_security_headers(send: Send) -> Send:
    """Add our headers to every response."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return with_headers
