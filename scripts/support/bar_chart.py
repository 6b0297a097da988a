"""A chart of horizontal bars, group by group, as SVG."""

from xml.sax.saxutils import escape

_COLOURS = ("#9a9a9a", "#d98032", "#e8b98a", "#5a8f4c", "#8a6db1", "#b3485a", "#2f6db0", "#86b4de")
_LEFT, _WIDTH, _RIGHT = 150, 640, 60
_BAR, _GAP, _TOP = 8, 10, 78


def write(path, title, groups, series, longest=2.5):
    """`groups` are (name, {series: value}); values are ratios, bars are cut at `longest`, and each has its figure."""
    height = _TOP + sum(len(values) * _BAR + _GAP for _, values in groups) + 24
    width = _LEFT + _WIDTH + _RIGHT
    colour = dict(zip(series, (_COLOURS[i % len(_COLOURS)] for i in range(len(series)))))

    def place(value):
        return _LEFT + _WIDTH * min(value, longest) / longest

    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
             f'viewBox="0 0 {width} {height}" font-family="sans-serif">',
             f'<rect width="{width}" height="{height}" fill="white"/>',
             f'<text x="12" y="24" font-size="16">{escape(title)}</text>']
    at = 12
    for name in series:
        lines += [f'<rect x="{at}" y="38" width="10" height="10" fill="{colour[name]}"/>',
                  f'<text x="{at + 14}" y="47" font-size="11">{escape(name)}</text>']
        at += 26 + 6.5 * len(name)
    for tick in range(int(longest * 2) + 1):
        x = place(tick / 2)
        lines += [f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{height - 20}" stroke="#888" '
                  f'stroke-width="{1.2 if tick == 2 else 0.3}"/>',
                  f'<text x="{x:.1f}" y="{_TOP - 10}" font-size="10" text-anchor="middle">{tick / 2:g}</text>']
    y = _TOP
    for name, values in groups:
        middle = y + len(values) * _BAR / 2 + 4
        lines.append(f'<text x="{_LEFT - 8}" y="{middle:.1f}" font-size="12" text-anchor="end">{escape(name)}</text>')
        for which, value in values.items():
            end = place(value)
            lines += [f'<rect x="{_LEFT}" y="{y}" width="{end - _LEFT:.1f}" height="{_BAR - 1}" '
                      f'fill="{colour[which]}"/>',
                      f'<text x="{end + 3:.1f}" y="{y + _BAR - 1}" font-size="8">{value:.2f}</text>']
            y += _BAR
        y += _GAP
    lines.append("</svg>")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
