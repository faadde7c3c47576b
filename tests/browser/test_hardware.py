"""Every state that hardware can be in, from recorded readings: the page says it in a sentence and goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.support.app_process import App

Visit = Callable[[App], Page]
STATES = {  # reading -> the device's name, words in the rail, and words in the memory card
    "none": ("Example processor", "No NVIDIA graphics card found.", "of 19.0 GB free"),
    "one_4090": (
        "RTX 4090",
        "21.9 of 24.0 GB free41 °C · 23 W",
        "code uses 1.2 GB, Xorg uses 0.6 GB. 0.7 GB stay in reserve",
    ),
    "two_reversed": ("RTX 4090", "Most free memory of 2 GPUs", "of 21.1 GB free"),
    "mig": ("A100-SXM4-40GB MIG 3g.20gb", "33 °C · 52 W", "of 19.0 GB free"),
    "na_power": ("RTX 4060 Laptop GPU", "6.7 of 8.0 GB free", "game.exe uses an unknown amount"),
    "300mb_free": ("RTX 4090", "0.3 of 24.0 GB free", "llama-server uses 23.0 GB"),
    "driver_error": ("Example processor", "The NVIDIA driver stopped responding", "of 19.0 GB free"),
}


@pytest.fixture(scope="module")
def app(serve: Callable[..., App]) -> App:
    return serve("25", reading="none")


@pytest.mark.parametrize("reading", STATES)
def test_the_page_shows_it(app: App, visit: Visit, reading: str) -> None:
    name, words, planned = STATES[reading]
    app.take(reading)
    page = visit(app)
    expect(page.locator("#device-name")).to_contain_text(name)
    expect(page.locator("#sidebar")).to_contain_text(words)
    expect(page.locator("#memory")).to_contain_text(planned)
    reason = page.locator("#plan li", has_text="No graphics card: the small")
    expect(reason).to_have_count(int(name == "Example processor"))
    expect(page.locator("#go")).to_be_enabled()
    wide = (
        "[...document.querySelectorAll('#sidebar section')].filter((one) => one.scrollWidth > one.clientWidth).length"
    )
    assert page.evaluate(wide) == 0


def test_a_driver_that_fails_mid_run_is_said_and_the_run_goes_on(app: App, visit: Visit) -> None:
    from tests.browser.test_page import begin, phase

    app.take("one_4090")
    page = visit(app)
    expect(page.locator("#device-name")).to_contain_text("RTX 4090")
    begin(page, "slow")
    app.take("driver_error")
    expect(page.locator("#device-problem")).to_contain_text("The NVIDIA driver")
    assert page.evaluate("window.tunebench.getPart('run').active")
    page.click("#stop")
    page.click("#stop-confirm")
    phase(page, "stopped")


def test_a_full_card_offers_what_fits_and_trying_anyway(app: App, visit: Visit) -> None:
    app.take("300mb_free")
    page = visit(app)
    expect(page.locator("#memory .badge")).to_have_text("✗ Will not fit")
    expect(page.locator("#memory")).to_contain_text("0.3 of 24.0 GB free. llama-server uses 23.0 GB")
    expect(page.locator("#go")).to_have_text("Train anyway")
    app.take("one_4090")
    expect(page.locator("#memory .badge")).to_have_text("✓ Fits")
    expect(page.locator("#go")).to_have_text("Train and compare")


def test_a_slider_moves_the_bar_and_keeps_the_effective_batch(app: App, visit: Visit) -> None:
    app.take("one_4090")
    page = visit(app)
    rank = page.locator("#memory-sliders label[data-key='lora.rank'] input")
    expect(rank).to_have_attribute("aria-valuetext", "16")
    rank.focus()
    page.keyboard.press("End")
    expect(rank).to_have_attribute("aria-valuetext", "256")
    expect(page.locator("#memory .edits, #memory dl")).not_to_have_count(0)
    expect(page.locator("#memory [data-sliders]")).to_have_attribute("data-sliders", pattern('"lora.rank": 256'))
    batch = page.locator("#memory-sliders label[data-key='dpo.batch_size'] input")
    batch.focus()
    page.keyboard.press("Home")
    expect(page.locator("#memory [data-sliders]")).to_have_attribute("data-sliders", pattern('"dpo.accumulation": 4'))
    expect(page.locator("#plan")).to_contain_text("steps of 4 pairs")


def pattern(text: str):  # type: ignore[no-untyped-def]
    import re

    return re.compile(re.escape(text))
