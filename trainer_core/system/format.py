"""Formats numbers, sizes, durations and settings consistently for the terminal, the page and the report."""

from __future__ import annotations

from typing import Any

GIB, MIB = 2**30, 2**20


def format_gb(count: float) -> str:
    """Bytes in GiB, written GB as on a graphics card's box, one decimal."""
    return f"{count / GIB:.1f} GB"


def format_mb(count: float) -> str:
    """Bytes as MiB, written MB, without decimals."""
    return f"{count / MIB:,.0f} MB"


def format_file_size(size: int) -> str:
    """Bytes as in file managers: 0.4 MB, 4.1 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def format_part_of_size(done: int, total: int) -> str:
    """`0.4 of 4.1 GB`; below a GB in MB."""
    unit, name, digits = (1e9, "GB", 1) if total >= 1e9 else (1e6, "MB", 0)
    return f"{done / unit:.{digits}f} of {total / unit:.{digits}f} {name}"


def format_duration(seconds: float) -> str:
    """8 s, 2 min 05 s, 1 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def format_estimated_duration(seconds: float) -> str:
    """`≈ 40 s`, `≈ 3 min`, `≈ 1 h 20 min`: rounded to the precision of an estimate."""
    step = 10 if seconds < 60 else 60 if seconds < 3600 else 600
    return f"≈ {format_duration(max(10, round(seconds / step) * step)).removesuffix(' 00 s').removesuffix(' 00 min')}"


def format_clock(seconds: float) -> str:
    """75 → 1:15, 3700 → 1:01:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def round_digits(value: float, digits: int) -> float:
    """The value rounded to this many significant digits."""
    return float(f"{value:.{digits}g}")


def format_number(value: float) -> str:
    """Short and exact: 16, 0.1, 2e-4, 5e-6."""
    if isinstance(value, int):
        return str(value)
    text = f"{value:g}"
    if float(text) != value:
        return repr(value)
    if 0 < abs(value) < 0.001:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return text


def format_rate(rate: float) -> str:
    """A learning rate with two digits: 0.0002, 5e-6."""
    return f"{round_digits(rate, 2):g}".replace("e-0", "e-")


def format_setting(value: Any) -> str:
    """A setting as text; empty if it is not set."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return format_number(value)
        case None | "" | ():
            return ""
        case tuple():
            return ", ".join(map(str, value))
    return str(value)


def format_planned_value(value: Any) -> str:
    """A value of a plan: on, 1,024, 0.1; `none` if it is not set."""
    match value:
        case bool():
            return "on" if value else "off"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(str, value))
    return "none" if value is None else str(value)
