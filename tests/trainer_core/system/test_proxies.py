"""The environment's proxies: never for our own address, and none that would end the app."""

from __future__ import annotations

import pytest

from trainer_core.system import proxies

NAMES = "127.0.0.1,localhost,::1,0.0.0.0"


@pytest.mark.parametrize("key", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_our_own_addresses_need_no_proxy(key: str) -> None:
    found = proxies.proxy_changes({key: "http://127.0.0.1:9"})
    assert found == {key: "http://127.0.0.1:9", "no_proxy": NAMES, "NO_PROXY": NAMES}


def test_what_needs_no_proxy_already_stays() -> None:
    found = proxies.proxy_changes(
        {"HTTP_PROXY": "http://p:9", "no_proxy": "intern.example, localhost", "NO_PROXY": "b.example"}
    )
    assert found["no_proxy"] == found["NO_PROXY"] == "intern.example,localhost,b.example,127.0.0.1,::1,0.0.0.0"


def test_without_a_proxy_nothing_changes() -> None:
    assert proxies.proxy_changes({"NO_PROXY": "a.example", "HTTP_PROXY": "", "MY_PROXY": "http://p:9"}) == {}


@pytest.mark.parametrize("address", ["socks5://127.0.0.1:9", "socks://p:1", "SOCKS4://p:1", "ftp://p:1"])
def test_a_proxy_that_cannot_be_used_is_emptied_and_said(address: str) -> None:
    found = proxies.proxy_changes({"ALL_PROXY": address, "HTTP_PROXY": "p:9"}, can_socks=False)
    assert (found["ALL_PROXY"], found["HTTP_PROXY"]) == ("", "p:9")
    assert (
        proxies.describe_unused_proxies(found).startswith("ALL_PROXY: not used")
        and proxies.describe_unused_proxies({"HTTP_PROXY": "p:9"}) == ""
    )
    assert proxies.proxy_changes({"ALL_PROXY": "socks5h://p:1"}, can_socks=True)["ALL_PROXY"] == "socks5h://p:1"
