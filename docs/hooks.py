"""The site needs no network and no server: formulas become MathML, and the search is checked."""

import html
import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority

# What a reader may search for, and an entry that must be found: one with a word of the search.
_SEARCHES = {
    "rk4": "api/zoo.html#odeopt.zoo.explicit.rk4",
    "solvers.RK4": "api/solvers.html#odeopt.solvers.classes.RK4",
    "clip_by_global_norm": "how-to/clipping.html",
}
_FETCHED = re.compile(r'<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)="(?:https?:)?//[^>]*>')

# What `pymdownx.arithmatex` leaves of $...$ and $$...$$.
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace every formula of a page by MathML, which browsers render themselves."""
    content = _INLINE.sub(lambda found: _mathml(found.group(1), "inline"), content)
    return _BLOCK.sub(lambda found: _mathml(found.group(1), "block"), content)


def _mathml(latex: str, display: str) -> str:
    return convert(html.unescape(latex).strip(), display=display)


@event_priority(-200)  # after `offline`, which has -100
def on_post_build(config: Any, **_: Any) -> None:
    """Fail if a search misses what it is for, or if a page fetches something from elsewhere."""
    site = Path(config.site_dir)
    index = json.loads((site / "search/search_index.js").read_text().removeprefix("var __index = "))
    separator = re.compile(index["config"]["separator"])
    entries = {entry["location"]: f"{entry['title']} {entry['text']}" for entry in index["docs"]}
    for search, location in _SEARCHES.items():
        text = re.sub("<[^>]*>", " ", entries.get(location, "")).lower()
        if not set(separator.split(search.lower())) & set(separator.split(text)):
            raise PluginError(f"A search for {search} does not find {location}.")
    for file in site.rglob("*.html"):
        if fetched := _FETCHED.search(file.read_text()):
            raise PluginError(f"{file.relative_to(site)} fetches from elsewhere: {fetched.group()}")
