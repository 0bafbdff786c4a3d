"""Masses over steps as a small SVG file: a panel for each algorithm, a line for each role (the median), a band over the seeds.

Drawn by hand because it is kept in the repository, where a page that holds a plotting library would weigh 5 MB.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WIDTH, HEIGHT, LEFT, TOP, GAP = 260, 170, 44, 34, 26
COLOURS = {"high": "#1f77b4", "low": "#7f7f7f", "optimal": "#d62728"}


def draw(runs: Mapping[str, Sequence[Mapping[str, Any]]], roles: Mapping[str, str]) -> str:
    """The picture's text. roles: role -> style."""
    wide = LEFT + len(runs) * (WIDTH + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{TOP + HEIGHT + 64}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for i, (algo, records) in enumerate(runs.items()):
        parts += _panel(algo, records, roles, LEFT + i * (WIDTH + GAP), first=i == 0)
    for i, (role, style) in enumerate(roles.items()):
        x, y = LEFT + i * 190, TOP + HEIGHT + 52
        parts.append(
            f'<line x1="{x}" x2="{x + 24}" y1="{y - 4}" y2="{y - 4}" stroke="{COLOURS[role]}" stroke-width="3"/>'
        )
        parts.append(f'<text x="{x + 30}" y="{y}">{role} ({style})</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    algo: str, records: Sequence[Mapping[str, Any]], roles: Mapping[str, str], x0: float, *, first: bool
) -> list[str]:
    steps_T = np.asarray(records[0]["steps"], np.float64)
    last = max(float(steps_T[-1]), 1.0)
    out = [f'<text x="{x0}" y="{TOP - 12}" font-weight="bold">{algo}</text>']
    for mass in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = TOP + HEIGHT * (1 - mass)
        out.append(f'<line x1="{x0}" x2="{x0 + WIDTH}" y1="{y}" y2="{y}" stroke="#dddddd"/>')
        if first:
            out.append(f'<text x="{x0 - 8}" y="{y + 4}" text-anchor="end">{mass:g}</text>')
    for step in (0.0, last / 2, last):
        x = x0 + WIDTH * step / last
        out.append(f'<text x="{x}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{step:.0f}</text>')
    for role, style in roles.items():
        mass_ST = np.asarray([record["mass"][style] for record in records])
        low, middle, high = mass_ST.min(0), np.median(mass_ST, axis=0), mass_ST.max(0)
        xs = x0 + WIDTH * steps_T / last
        band = _points(np.concatenate([xs, xs[::-1]]), np.concatenate([high, low[::-1]]))
        out.append(f'<polygon points="{band}" fill="{COLOURS[role]}" opacity="0.18"/>')
        out.append(
            f'<polyline points="{_points(xs, middle)}" fill="none" stroke="{COLOURS[role]}" stroke-width="2"/>'
        )
    return out


def _points(xs: Any, masses: Any) -> str:
    return " ".join(f"{x:.1f},{TOP + HEIGHT * (1 - m):.1f}" for x, m in zip(xs, masses, strict=True))
