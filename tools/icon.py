"""Draws assets/icon.png and assets/icon.ico, the shape of assets/favicon.svg, for the desktop.

python tools/icon.py
"""

from pathlib import Path

from PIL import Image, ImageDraw

ASSETS = Path(__file__).resolve().parents[1] / "assets"
TEAL = "#0f766e"
SIZE, OVERSAMPLING = 256, 4
"""Pixels, and how many times finer it is drawn before it is made smaller, for smooth edges."""


def draw_icon() -> Image.Image:
    """A ring whose right half is filled, in the 32 units of the favicon."""
    unit = SIZE * OVERSAMPLING / 32
    image = Image.new("RGBA", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING))
    pen = ImageDraw.Draw(image)
    outer = (1.5 * unit, 1.5 * unit, 30.5 * unit, 30.5 * unit)
    pen.ellipse(outer, outline=TEAL, width=round(3 * unit))
    pen.pieslice(outer, -90, 90, fill=TEAL)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    icon = draw_icon()
    icon.save(ASSETS / "icon.png", optimize=True)
    icon.save(ASSETS / "icon.ico", sizes=[(side, side) for side in (16, 24, 32, 48, 64, 128, 256)])
