"""Who is let in: every route with every mixture of origin, host and content type, each with the key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from reliability.harness.claim import Proof, TrialCount, count_trials
from tests.support.app_process import App
from tests.support.web_attacks import (
    ENDLESS,
    HOSTS,
    ORIGINS,
    TYPES,
    is_own_request,
    login_cookie,
    page_routes,
    request_headers,
    send_attack,
)

QUESTION = (
    "8 origins × 6 hosts × 5 content types on every route and method of the app, each with the key in its cookie: is all refused "
    "but what our own page sends to our own address? The control is our own page: only origin and host differ, and it "
    "must get in, or a door that refuses everything would pass."
)


def run(folder: Path, quick: bool) -> Iterator[Proof]:
    with App(folder / "workspace", "50") as app:
        cookie = login_cookie(app)
        asks = list(product(page_routes(), ORIGINS, HOSTS, TYPES))[:: 41 if quick else 1]
        control = [
            bool(find_access_violation(app.port, cookie, route, None, "own", ""))
            for route in page_routes()
            if is_ending_route(route)
        ]
        ours = [find_access_violation(app.port, cookie, *ask) for ask in asks if not is_own_request(ask[1], ask[2])]
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


def find_access_violation(
    port: int, cookie: str, route: tuple[str, str], origin: str | None, host: str, kind: str
) -> str:
    """What was let in that should not have been, or nothing."""
    method, path = route
    headers, body = request_headers(port, cookie, origin, host, kind), b"{}" if method == "POST" else None
    answer, _ = send_attack(port, method, re.sub(r"{[^}]*}", "x", path), body, headers, most=0)
    if answer.status in (400, 403):
        return ""
    return f"{method} {path}, origin {origin}, host {headers['Host']}, {kind}: {answer.status}"
