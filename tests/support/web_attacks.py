"""What a hostile page or address tries, for the tests of access and for reliability's claims on it."""

from __future__ import annotations

ORIGINS = (
    None,
    "own",
    "http://evil.example",
    "null",
    "https://127.0.0.1",
    "http://127.0.0.1",
    "http://localhost:1",
    "file://",
)
HOSTS = ("own", "localhost", "evil.example", "127.0.0.1", "127.0.0.1.evil.example:{port}", "[::1]:1")
TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "")
PREFIXES = (
    "/gradio_api/file=",
    "/file=",
    "/gradio_api/file/",
    "/assets/",
    "/static/",
    "/theme.css/",
    "/gradio_api/stream/",
)
