"""Who is let in: every route with every mixture of origin, host and content type, for other sites, and without the key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from reliability.harness.claim import Proof, TrialCount, count_trials
from tests.support.app_process import App
from tests.support.web_attacks import (
    COOKIES,
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
    "but what our own page sends to our own address? The same where the browser says that another site began the request, and "
    "with five cookies that are not the key. Is the key found among the cookies of other programs at this address? The control "
    "is our own page: only what is asked about differs, and it must get in, or a door that refuses everything would pass."
)
SITES, MODES = ("cross-site", "same-site", "none of these"), ("navigate", "no-cors", "cors")
"""What a browser may write into Sec-Fetch-Site and Sec-Fetch-Mode for a page that is not ours."""
WITHOUT_KEY = (("GET", "/gradio_api/startup-events"), ("GET", "/manifest.json"))
"""The two routes that need no key."""
OWN_ROUTES = (("POST", "/tunebench/enter"), ("POST", "/tunebench/leave"))
"""Routes that Gradio does not have."""
REFUSED, NO_KEY = (400, 403), 401
"""Statuses: refused in spite of the key, and for want of it."""
CONTROL = "the same asked by our own page, where to get in counts as a failure"
Route = tuple[str, str]
"""Method and path, its parameters in braces."""


def run(folder: Path, quick: bool) -> Iterator[Proof]:
    with App(folder / "workspace", "50") as app:
        key, routes = login_cookie(app), list(page_routes())
        own = request_headers(app.port, key, None, "own", "")
        control = [get_status(app.port, route, own) for route in routes if is_ending_route(route)]
        yield prove_refused(
            "Only our own page at our own address gets in", other_pages(app, routes, key, quick), control
        )
        own |= {"Sec-Fetch-Site": "same-origin"}
        control = [get_status(app.port, route, own) for route in routes if is_ending_route(route)]
        yield prove_refused("No request that another site began gets in", other_sites(app, routes, key, quick), control)
        yield prove_refused("Nobody gets in without the key", without_key(app, routes, key, quick), control)
        yield Proof(
            "The key gets in among other programs' cookies",
            count_trials(list(among_neighbours(app, routes, key, quick))),
            "the same cookies without the key",
            count_trials(list(among_neighbours(app, routes, "", quick))),
        )


def prove_refused(claim: str, found: Iterator[str], control: Sequence[int]) -> Proof:
    """Nothing was let in, and our own page, with the statuses of `control`, was."""
    let_in = TrialCount(len(control), sum(status not in (*REFUSED, NO_KEY) for status in control))
    return Proof(claim, count_trials(list(found)), CONTROL, let_in, 0.5)


def other_pages(app: App, routes: Sequence[Route], key: str, quick: bool) -> Iterator[str]:
    """What was let in, or an empty text, for each question of another page or to another address."""
    for route, origin, host, kind in list(product(routes, ORIGINS, HOSTS, TYPES))[:: 41 if quick else 1]:
        if not is_own_request(origin, host):
            yield find_violation(app.port, route, request_headers(app.port, key, origin, host, kind), REFUSED)


def other_sites(app: App, routes: Sequence[Route], key: str, quick: bool) -> Iterator[str]:
    """The same for questions with our address and the key, which another site began."""
    own = request_headers(app.port, key, None, "own", "application/json")
    for route, site, mode in list(product(routes, SITES, MODES))[:: 7 if quick else 1]:
        yield find_violation(app.port, route, own | {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}, REFUSED)


def without_key(app: App, routes: Sequence[Route], key: str, quick: bool) -> Iterator[str]:
    """The same for questions of our own page with each cookie that is not the key."""
    name, _, value = key.partition("=")
    cookies = ("", f"{name}=", f"{name}={'0' * len(value)}", f"{name}={value[:-1]}", f"{name}-of-another-app={value}")
    closed = [route for route in (*routes, *OWN_ROUTES) if route not in WITHOUT_KEY]
    for route, cookie in list(product(closed, cookies))[:: 7 if quick else 1]:
        asked = request_headers(app.port, cookie, None, "own", "application/json")
        yield find_violation(app.port, route, asked, (NO_KEY,))


def among_neighbours(app: App, routes: Sequence[Route], key: str, quick: bool) -> Iterator[str]:
    """The questions of our own page in which no key was found: it stands between cookies of other programs."""
    closed = [route for route in routes if is_ending_route(route) and route not in WITHOUT_KEY]
    for route, cookie in list(product(closed, COOKIES))[:: 7 if quick else 1]:
        asked = request_headers(app.port, "; ".join(filter(None, (cookie, key, cookie))), None, "own", "")
        status = get_status(app.port, route, asked)
        yield f"{' '.join(route)}, {cookie!r}: {status}" if status == NO_KEY else ""


def is_ending_route(route: Route) -> bool:
    """Does it answer and end?"""
    return not route[1].startswith(ENDLESS) and "queue/data" not in route[1]


def get_status(port: int, route: Route, headers: Mapping[str, str]) -> int:
    method, path = route
    body = b"{}" if method == "POST" else None
    return send_attack(port, method, re.sub(r"{[^}]*}", "x", path), body, dict(headers), most=0)[0].status


def find_violation(port: int, route: Route, headers: Mapping[str, str], refused: Sequence[int]) -> str:
    """What was let in, by the statuses that refuse it, or nothing."""
    status = get_status(port, route, headers)
    told = {name: value for name, value in headers.items() if name != "Cookie"}
    return "" if status in refused else f"{' '.join(route)}, {told}: {status}"
