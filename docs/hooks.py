"""LaTeX becomes MathML while the site is built: no script, no font, nothing from elsewhere."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What `pymdownx.arithmatex` leaves of $...$ and $$...$$.
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace every formula of a page by MathML, which browsers render themselves."""
    content = _INLINE.sub(lambda found: _mathml(found.group(1), "inline"), content)
    return _BLOCK.sub(lambda found: _mathml(found.group(1), "block"), content)


def _mathml(latex: str, display: str) -> str:
    return convert(html.unescape(latex).strip(), display=display)
