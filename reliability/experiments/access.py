"""Who is let in: every route with every mixture of origin, host and content type, each with the key."""

from __future__ import annotations

import http.client
import re
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from reliability.experiments.path_traversal import ENDLESS, login_cookie, page_routes
from reliability.harness.claim import Proof, TrialCount, count_trials
from tests.browser.conftest import App
from tests.support.web_attacks import HOSTS, ORIGINS, TYPES

QUESTION = (
    "8 origins × 6 hosts × 5 content types on every route and method of the app, each with the key in its cookie: is all refused "
    "but what our own page sends to our own address? The control is our own page: only origin and host differ, and it "
    "must get in, or a door that refuses everything would pass."
)


def run(quick: bool) -> Iterator[Proof]:
    with tempfile.TemporaryDirectory(prefix="proof-") as name:
        app = App(Path(name) / "workspace", "50")
        try:
            cookie = login_cookie(app)
            asks = list(product(page_routes(), ORIGINS, HOSTS, TYPES))[:: 41 if quick else 1]
            control = [
                bool(find_access_violation(app.port, cookie, route, None, "own", ""))
                for route in page_routes()
                if is_ending_route(route)
            ]
            ours = [
                find_access_violation(app.port, cookie, *ask)
                for ask in asks
                if not is_own_request(ask[1], ask[2], app.port)
            ]
        finally:
            app.close()
    yield Proof(
        "Only our own page at our own address gets in",
        count_trials(ours),
        "the same asked by our own page, where to get in counts as a failure",
        TrialCount(len(control), sum(control)),
        0.5,
    )


def is_ending_route(route: tuple[str, str]) -> bool:
    """Does it answer and end?"""
    return not route[1].startswith(ENDLESS) and "queue/data" not in route[1]


def is_own_request(origin: str | None, host: str, port: int) -> bool:
    """Our own page at our own address?"""
    return host in ("own", "localhost") and (origin is None or (origin == "own" and host == "own"))


def find_access_violation(
    port: int, cookie: str, route: tuple[str, str], origin: str | None, host: str, kind: str
) -> str:
    """What was let in that should not have been, or nothing."""
    method, path = route
    own = f"127.0.0.1:{port}"
    name = {"own": own, "localhost": f"localhost:{port}"}.get(host, host).format(port=port)
    headers = {"Host": name, "Cookie": cookie, "Content-Type": kind}
    if origin:
        headers["Origin"] = f"http://{own}" if origin == "own" else origin
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, re.sub(r"{[^}]*}", "x", path), "{}" if method == "POST" else None, headers)
        status = connection.getresponse().status
    finally:
        connection.close()
    return "" if status in (400, 403) else f"{method} {path}, origin {origin}, host {name}, {kind}: {status}"
