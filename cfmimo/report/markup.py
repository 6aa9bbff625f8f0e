"""HTML: a page that needs no other file, its tables and its figures."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence

_LOOK = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 74rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th { vertical-align: bottom; white-space: normal; font-weight: 600 }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
th.prose, td.prose { text-align: left; white-space: normal }
figure { margin: 1.5rem 0 } svg { max-width: 100%; height: auto }
.beside { display: flex; flex-wrap: wrap; gap: 0 1rem } .beside figure { flex: 1 1 30rem; max-width: 40rem }
figcaption { color: #555 } pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 13px }"""


def page(title: str, body: str) -> str:
    """A whole page, which is XML as well as HTML; `body` is markup."""
    title = html.escape(title)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><title>{title}</title><style>
{_LOOK}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def figure(svg: str, caption: str) -> str:
    """A drawing, as `figures.save` returns it, and what it shows."""
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>\n"


def beside(figures: Iterable[str]) -> str:
    """Figures beside each other where there is room."""
    return f'<div class="beside">{"".join(figures)}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], prose: Collection[str] = ()) -> str:
    """Rows of text; the first column names them, and those headed by one of `prose` hold sentences."""
    looks = [' class="prose"' if name in prose else "" for name in header]
    head = "".join(f"<th{look}>{html.escape(name)}</th>" for name, look in zip(header, looks, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{look}>{html.escape(cell)}</td>" for cell, look in zip(row, looks, strict=True))
        + "</tr>\n"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
