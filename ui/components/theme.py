"""Gradio's theme, and the settings for launch()."""

from __future__ import annotations

from typing import Any

from gradio import themes

from trainer_core.system.project import PROJECT
from ui.server.page_script import page_script

ASSETS = PROJECT / "assets"


def build_theme() -> themes.Base:
    """Teal on slate; text colours dark enough for WCAG AA. Weights 400 and 700: the bundled semibold file lacks most letters."""
    return themes.Base(
        primary_hue=themes.colors.teal,
        neutral_hue=themes.colors.slate,
        text_size=themes.sizes.text_sm,
        spacing_size=themes.sizes.spacing_sm,
        radius_size=themes.sizes.radius_md,
        font=themes.LocalFont("IBM Plex Sans", (400, 700)),
        font_mono=themes.LocalFont("IBM Plex Mono", (400, 700)),
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="#0d131c",
        background_fill_primary_dark="#131b26",
        background_fill_secondary_dark="#0f1620",
        block_background_fill="white",
        block_background_fill_dark="#131b26",
        border_color_primary_dark="#2a3646",
        body_text_color="*neutral_900",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_title_text_weight="700",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        input_background_fill="white",
        input_background_fill_dark="#0d131c",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="#354357",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_padding="8px 10px",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_large_text_weight="700",
        button_medium_text_weight="700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_border_color="*primary_700",
        button_primary_border_color_dark="*primary_700",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="#1b2533",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_hover_dark="#243143",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="#354357",
        button_secondary_text_color="*neutral_800",
        button_secondary_text_color_dark="*neutral_100",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_600",
        checkbox_border_color="*neutral_500",
        checkbox_label_background_fill="white",
        checkbox_label_background_fill_dark="#1b2533",
        checkbox_label_border_width="1px",
        prose_header_text_weight="700",
    )


MAX_SESSIONS = 8
"""Gradio keeps a third of a MB per page load. Our data is not part of it, so pages beyond the limit still work."""


def launch_settings() -> dict[str, Any]:
    """Settings for launch(): local only, no stored data, no telemetry."""
    return {
        "theme": build_theme(),
        "css": (ASSETS / "web" / "style.css").read_text(encoding="utf-8"),
        "head": page_script(),
        "favicon_path": ASSETS / "favicon.svg",
        "server_name": "127.0.0.1",
        "share": False,
        "run_history": False,
        "footer_links": [],
        "enable_monitoring": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": True,
        "quiet": True,
        "show_error": True,
        "state_session_capacity": MAX_SESSIONS,
        "max_file_size": "2gb",
        "allowed_paths": [],
    }
