"""The colors of figures, on light and on dark pages.

Figures are made of these colors alone. The page replaces each by its counterpart in `DARK` if the
reader prefers dark pages.
"""

from __future__ import annotations

# Okabe and Ito, "Color Universal Design", 2008: also distinguishable with color blindness.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GRAY, WHITE = "#8A8F98", "#FFFFFF"

TEXT, FRAME, GRID = "#1D2026", "#30343B", "#E6E8EB"
"""The colors of text, of the lines of axes, and of the grid."""

METHODS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
SYMBOLS = ("circle", "square", "diamond", "triangle", "cross", "plus", "star")
"""Symbols of methods, one for each color of `METHODS`."""

DASHES = ("solid", "dash", "dot")

# fmt: off
MAP = (
    "#440154", "#470E61", "#481B6D", "#482677", "#46327E", "#433D84", "#3F4788", "#3B518B",
    "#375B8D", "#32648E", "#2E6D8E", "#2B758E", "#277E8E", "#24868E", "#218F8D", "#1F988B",
    "#1FA188", "#23A983", "#2CB17E", "#38B977", "#48C16E", "#5AC864", "#6ECE58", "#84D44B",
    "#9BD93C",
)
"""The color map, from the most to the least visible color: viridis without its lightest part.

Viridis is perceptually uniform, and distinguishable with color blindness.
"""

DARK_MAP = (
    "#FDE725", "#ECE51B", "#DAE319", "#C8E020", "#B5DE2B", "#A2DA37", "#90D743", "#7CD250",
    "#6CCD5A", "#5CC863", "#4EC36B", "#40BD72", "#35B779", "#2CB17E", "#24AA83", "#20A386",
    "#1E9D89", "#1F968B", "#21908D", "#23898E", "#26828E", "#297B8E", "#2B748E", "#2E6E8E",
    "#31678E",
)
"""The color map on a dark page: viridis without its darkest part, from its light end."""
# fmt: on

DARK = dict(zip(MAP, DARK_MAP, strict=True)) | {
    BLACK: "#F2F4F7",
    WHITE: "#15181D",
    GRAY: "#9AA1AC",
    BLUE: "#4BA3E3",
    VERMILION: "#F07B2E",
    GREEN: "#22BF91",
    PURPLE: "#DC8FB9",
    TEXT: "#E4E7EC",
    FRAME: "#AEB4BE",
    GRID: "#2E333B",
}
"""The counterpart of each color on a dark page. Colors without one are legible on both."""
