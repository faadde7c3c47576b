"""A page from another place in the same browser, which holds the app's key: it can neither read, nor do, nor frame anything."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.app_process import App

ATTACKS = """
<form id="post" method="post" enctype="multipart/form-data" action="{app}/gradio_api/upload" target="out">
<input name="files" value="x"></form><iframe name="out"></iframe><iframe src="{app}/"></iframe><img src="{app}/gradio_api/info">
<script src="{app}/config"></script>
<script>
  document.getElementById('post').submit()
  for (const path of ['/', '/config', '/gradio_api/queue/join', '/gradio_api/upload'])
    for (const method of ['GET', 'POST'])
      for (const type of ['text/plain', 'application/x-www-form-urlencoded'])
        fetch('{app}' + path, {{method, mode: 'no-cors', credentials: 'include', headers: {{'Content-Type': type}},
          ...(method == 'POST' ? {{body: '{{}}'}} : {{}})}}).catch(() => 0)
</script>
"""


@pytest.fixture
def evil() -> Iterator[Callable[[str], str]]:
    """Serves one page from another port, which is another origin."""
    pages = {"body": b""}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(pages["body"])

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def serve(text: str) -> str:
        pages["body"] = text.encode()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    server.shutdown()


@pytest.fixture(scope="module")
def app(serve: Callable[..., App]) -> App:
    return serve("50")


def test_nothing_of_another_origin_gets_in(app: App, browser: Browser, evil: Callable[[str], str]) -> None:
    context = browser.new_context()
    context.new_page().goto(app.address)  # the browser has the key now
    page = context.new_page()
    answers: list[tuple[int, str]] = []
    page.on("response", lambda r: answers.append((r.status, r.url)) if r.url.startswith(app.root) else None)
    page.goto(evil(ATTACKS.format(app=app.root)))
    page.wait_for_load_state("networkidle")
    assert len(answers) >= 15
    assert not [answer for answer in answers if answer[0] < 400]
    context.close()
