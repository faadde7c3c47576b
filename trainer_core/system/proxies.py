"""Proxies of the environment: our own address never uses one, and unusable ones are ignored."""

from __future__ import annotations

import importlib.util
import urllib.request
from collections.abc import Mapping

from trainer_core.texts import Text

OWN_HOSTS = ("127.0.0.1", "localhost", "::1", "0.0.0.0")
SCHEMES = ("http", "https", "all")


def proxy_changes(environment: Mapping[str, str], can_socks: bool | None = None) -> dict[str, str]:
    """Changes to the environment: our own addresses bypass proxies, and a proxy that httpx cannot use is emptied, as it would end
    the app at its first request. Apply before importing gradio, which creates a client at once.

    A proxy found only in the system settings (Windows, macOS) is copied into the environment, because urllib ignores those
    settings once the environment names any proxy.

    Args:
        can_socks: whether SOCKS proxies work; None: detect it from the installed packages.
    """
    named = {key: value for key, value in environment.items() if is_proxy(key) and value.strip()}
    named = named or {f"{scheme}_proxy": address for scheme, address in system_proxies().items()}
    if not named:
        return {}
    if can_socks is None:
        can_socks = importlib.util.find_spec("socksio") is not None
    without = ",".join(environment.get(key, "") for key in ("no_proxy", "NO_PROXY"))
    names = ",".join(dict.fromkeys((*(name for one in without.split(",") if (name := one.strip())), *OWN_HOSTS)))
    kept = {key: value if is_usable_proxy(value, can_socks) else "" for key, value in named.items()}
    return {**kept, "no_proxy": names, "NO_PROXY": names}


def describe_unused_proxies(environment: Mapping[str, str]) -> str:
    """A sentence about the emptied proxies; empty if there are none."""
    emptied = sorted(key for key, value in environment.items() if is_proxy(key) and not value)
    return str(Text("proxies.not_used", names=", ".join(emptied))) if emptied else ""


def is_proxy(key: str) -> bool:
    return key.lower().removesuffix("_proxy") in SCHEMES and key.lower().endswith("_proxy")


def system_proxies() -> dict[str, str]:
    """Proxies from the settings of Windows or macOS; empty elsewhere."""
    return {scheme: address for scheme, address in urllib.request.getproxies().items() if scheme in SCHEMES}


def is_usable_proxy(address: str, can_socks: bool) -> bool:
    """Does httpx accept this proxy address? Any other would end the app at its start."""
    scheme = address.strip().partition("://")[0].lower() if "://" in address else "http"
    if scheme.startswith("socks"):
        return can_socks and scheme in ("socks5", "socks5h")
    return scheme in ("http", "https")
