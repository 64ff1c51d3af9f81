"""Drawing what comparisons found: shapes on a canvas, as SVG for a page and as PNG; colours, ticks, points apart."""
