"""The app: combines workspace, supervisor and page, served on 127.0.0.1, one at a time per workspace."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainer_core.system import proxies
from ui.server import gradio_environment

os.environ.update(gradio_environment.replace_settings(os.environ))  # read by gradio when it is imported
os.environ.update(proxies.proxy_changes(os.environ))  # so are the proxies

import gradio as gr
import psutil
from filelock import Timeout
from starlette.middleware import Middleware

from trainer_core.cli import terminal
from trainer_core.errors import UserError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.workspace import Workspace, default_workspace, ensure_dir
from trainer_core.system.file_lock import ProcessLock
from trainer_core.texts import Text
from ui.components import html, sidebar, theme
from ui.format import page_text
from ui.server import auth, connections, live_updates
from ui.server.address import OPENER, hold_port, is_own_name, own_name
from ui.tabs import compare, data, start, train
from ui.tabs.runs import build_runs_tab

FIRST_PORT = 7860
PORTS = 100
LAST_PORT, FIRST_OPEN_PORT = 65_535, 1024
QUEUE_SLEEP_SECONDS, PROGRESS_SLEEP_SECONDS = 0.1, 1.0
"""Gradio's queue looks for work every millisecond, which costs 6 % of a core when idle, and a hundred times a second for
progress bars, which we do not use."""
NEIGHBOUR_SECONDS = 20.0
LISTEN_SECONDS = 0.5
"""Windows handles Ctrl-C only between two waits, so every wait needs a timeout."""


def build_page(supervisor: Supervisor) -> gr.Blocks:
    with gr.Blocks(title="Tunebench", fill_width=True, analytics_enabled=False) as page:
        live = live_updates.build_live_channel(supervisor)
        sidebar.static_html(html.render_banner())
        sidebar.build_sidebar(supervisor, live)
        with gr.Tabs(elem_id="tabs", selected="start") as tabs:
            with gr.Tab(page_text("tabs.start"), id="start"):
                start.build_start_tab(supervisor, live, tabs, page)
            with gr.Tab(page_text("tabs.data"), id="data"):
                data.build_data_tab(supervisor)
            with gr.Tab(page_text("tabs.train"), id="train"):
                train.build_train_tab(supervisor, live)
            with gr.Tab(page_text("tabs.compare"), id="compare"):
                compare.build_compare_tab(supervisor, live, tabs)
            with gr.Tab(page_text("tabs.runs"), id="runs"):
                build_runs_tab(supervisor, live)
    page.queue(api_open=False)
    page._queue.sleep_when_free = QUEUE_SLEEP_SECONDS
    page._queue.progress_update_sleep_when_free = PROGRESS_SLEEP_SECONDS
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after a normal end, or if the app is already open; 1, with a sentence, for an error the user can fix."""
    terminal.prepare_streams()
    args = build_app_parser().parse_args(argv)

    def open_app() -> int:
        workspace = Workspace(args.workspace.resolve())
        with single_instance(workspace) as first:
            return serve_app(workspace, args) if first else show_open_app(workspace, args.browser)

    return terminal.run_command(open_app)


def build_app_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="tunebench", description="Fine-tune, align and compare adapters, on this computer."
    )
    top.add_argument("--no-browser", dest="browser", action="store_false", help="do not open the page in a browser")
    top.add_argument(
        "--lan",
        action="store_true",
        help="let other computers of your network in, by a password: TUNEBENCH_PASSWORD, or one that is made and shown",
    )
    top.add_argument("--port", type=int, help=f"the page's port; without it the first free one from {FIRST_PORT}")
    top.add_argument("--workspace", type=Path, default=default_workspace(), help="where runs and models lie")
    top.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="what runs use")
    top.add_argument(
        "--no-warm",
        dest="warm",
        action="store_false",
        help="import the libraries after the click, not while you read Start: 1 GiB of memory less, a run begins later",
    )
    return top


def serve_app(workspace: Workspace, args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C. A training run continues afterwards; Compare ends."""
    port = find_free_port() if args.port is None else check_port(args.port)
    password = lan_password() if args.lan else ""
    if unused := proxies.describe_unused_proxies(os.environ):
        terminal.print_line(unused)
    ended = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGBREAK", signal.SIGTERM)):
        signal.signal(name, lambda *_: ended.set())
    supervisor = Supervisor(workspace, device=args.device, ahead=args.warm).watch()
    try:
        own = own_name(workspace.root)
        open_page(build_page(supervisor), port, workspace, password, own)
        if args.browser:
            show_page(workspace)
        wait_for_signal(ended)
    finally:
        supervisor.close()
    return 0


def wait_for_signal(ended: threading.Event) -> None:
    while not ended.wait(LISTEN_SECONDS):
        pass


def show_page(workspace: Workspace, browse: Callable[[str], object] = webbrowser.open) -> None:
    """Open the page in the browser through a file that only its owner can read: all users can see a process's arguments."""
    browse((workspace.root / OPENER).as_uri())


def lan_password() -> str:
    """The password for other computers: the user's, or a random one.

    Raises:
        UserError: the user's is too short.
    """
    password = os.environ.get("TUNEBENCH_PASSWORD") or secrets.token_urlsafe(12)
    if len(password) < auth.MIN_PASSWORD_LENGTH:
        raise UserError("app.short_password", length=len(password), least=auth.MIN_PASSWORD_LENGTH)
    return password


def lan_names() -> list[str]:
    """Names and addresses of this computer in its network."""
    addresses = [
        one.address for several in psutil.net_if_addrs().values() for one in several if one.family == socket.AF_INET
    ]
    host = socket.gethostname().lower()
    return [*(address for address in addresses if not address.startswith("127.")), host, f"{host}.local"]


def open_page(page: gr.Blocks, port: int, workspace: Workspace, password: str = "", own: str = "") -> str:
    """Serve the page and report when it answers: on this computer only, or with a password in its network too.

    Args:
        own: an additional name below `.localhost`, see `address.own_name`; shown if this computer resolves it.

    Returns:
        The link that opens the page here.
    """
    names = lan_names() if password else []
    held = hold_port(port) if own else None
    host = own if held and is_own_name(own) else "127.0.0.1"
    keys = auth.AccessKeys(
        workspace.root, f"http://{host}:{port}", password, names, f"http://{own}:{port}" if held else ""
    )
    keys.held = held
    guard = {"middleware": [Middleware(auth.AuthMiddleware, keys=keys)]}
    settings = {**theme.launch_settings(), **({"server_name": "0.0.0.0"} if password else {})}
    page.launch(server_port=port, prevent_thread_lock=True, inbrowser=False, app_kwargs=guard, **settings)
    connections.limit_connections(page.server)
    link = keys.link.read_text(encoding="utf-8")
    if password:
        terminal.print_line(str(Text("app.open_network", address=f"http://{names[0]}:{port}", password=password)))
    terminal.print_line(f"{Text('app.open', link=link)}\nREADY {link}")
    return link


@contextmanager
def single_instance(workspace: Workspace) -> Iterator[bool]:
    """Is this the only app on the workspace? The lock is the operating system's, released when the process ends."""
    lock = ProcessLock(ensure_dir(workspace.root) / "app.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    address_file(workspace).unlink(missing_ok=True)
    with lock:
        yield True


def address_file(workspace: Workspace) -> Path:
    return workspace.root / "app.address"


def show_open_app(workspace: Workspace, browser: bool) -> int:
    """Print the address of the app that is already open; it may still be starting."""
    file, end = address_file(workspace), time.monotonic() + NEIGHBOUR_SECONDS
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.2)
    if not file.exists():
        raise UserError("app.other_starting", workspace=str(workspace.root), seconds=NEIGHBOUR_SECONDS)
    link = file.read_text(encoding="utf-8")
    terminal.print_line(str(Text("app.already_open", link=link)))
    if browser:
        show_page(workspace)
    return 0


def find_free_port() -> int:
    port = next((port for port in range(FIRST_PORT, FIRST_PORT + PORTS) if is_port_free(port)), None)
    if port is None:
        raise UserError("app.no_port", first=FIRST_PORT, last=FIRST_PORT + PORTS - 1)
    return port


def check_port(port: int) -> int:
    """The requested port.

    Raises:
        UserError: the port is invalid, reserved by the system, or taken.
    """
    if not 1 <= port <= LAST_PORT:
        raise UserError("app.bad_port", port=port, last=LAST_PORT)
    if not is_port_free(port):
        raise UserError("app.system_port" if port < FIRST_OPEN_PORT else "app.port_taken", port=port)
    return port


def is_port_free(port: int) -> bool:
    """Is the port free? Windows would share a taken one unless told not to."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
