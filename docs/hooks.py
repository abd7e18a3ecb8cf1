"""What the site does beside Markdown: formulas as MathML, names as links, a search that is checked.

It needs no network and no server.
"""

import functools
import html
import json
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority

import odeopt
import odeopt.studies

# What a reader may search for, and an entry that must be found: one with a word of the search.
_SEARCHES = {
    "rk4": "api/zoo.html#odeopt.zoo.explicit.rk4",
    "solvers.RK4": "api/solvers.html#odeopt.solvers.classes.RK4",
    "clip_by_global_norm": "how-to/clipping.html",
}
# Pages of other libraries and the names that they explain: their inventories would need a network.
_ELSEWHERE = {
    name: page.format(name)
    for page, names in json.loads(Path(__file__).with_name("elsewhere.json").read_text()).items()
    for name in names.split()
}
_PACKAGES = (
    "stepsize",
    "solvers",
    "flows",
    "drift",
    "ordering",
    "diagnostics",
    "kernels",
    "growth",
    "studies",
)
_SHORT = {"jnp": "jax.numpy", "eqx": "equinox", "nnx": "flax.nnx"}
_FETCHED = re.compile(r'<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)="(?:https?:)?//[^>]*>')

# What `pymdownx.arithmatex` leaves of $...$ and $$...$$.
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)

# What holds a name: headings, inline code that starts with one, and `a.b.c` in blocks of Python.
# Links stay as they are.
_NAMES = re.compile(
    r"<(a|autoref)\b.*?</\1>"
    r'|<h[1-6] id="(?P<heading>[^"]*)".*?</h[1-6]>'
    r"|<code>(?:odeopt\.)?(?P<name>[a-zA-Z_][\w.]*)(?P<call>\([^<]*\))?</code>"
    r'|(?P<path><span class="n">\w+</span>'
    r'(?:<span class="o">\.</span><span class="n">\w+</span>)+)',
    re.DOTALL,
)
_TAG = re.compile("<[^>]*>")
_HEADING = re.compile(
    r'(<h[1-6] id="(odeopt\.[\w.]+)"[^>]*>\s*<span class="doc doc-object-name[^"]*">)[^<]*'
)
_ENTRY = re.compile(r'href="[^"#]*#(odeopt\.[\w.]+)"')


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Formulas become MathML, which browsers render themselves, and public names links.

    Entries are headed by the name to write, not by the file that has it.
    """
    public = _public()
    content = _HEADING.sub(lambda f: f[1] + public[f[2]] if f[2] in public else f[0], content)
    content = _INLINE.sub(lambda found: _mathml(found.group(1), "inline"), content)
    content = _BLOCK.sub(lambda f: f"<div>{_mathml(f.group(1), 'block')}</div>", content)
    return _linked(content, back=_guide(page.url))


def _linked(content: str, *, back: bool) -> str:
    """The first mention of every public name under a heading leads to its entry; `back` too.

    Names of other libraries lead to their documentation.
    """
    heading, seen = "", set()

    def link(found: re.Match[str]) -> str:
        nonlocal heading
        if found["heading"]:
            heading = found["heading"]
            seen.clear()
        if found["path"]:
            return _in_code(found["path"], linked)
        name = found["name"] or ""
        plain = not found["call"] and name.islower() and "_" not in name
        return linked(name if plain else _full(name), found[0])

    def linked(name: str, shown: str) -> str:
        entry = _entry(name)
        if entry is None or entry in seen:
            return shown
        seen.add(entry)
        ours = back and entry not in _ELSEWHERE
        returns = f' backlink-type="referenced-by" backlink-anchor="{heading}"' if ours else ""
        return f'<autoref identifier="{entry}"{returns}>{shown}</autoref>'

    return _NAMES.sub(link, content)


def _in_code(path: str, linked: Callable[[str, str], str]) -> str:
    """The longest part of `a.b.c` that is a name leads to its entry."""
    spans = path.split('<span class="o">')
    for end in range(len(spans), 1, -1):
        shown = '<span class="o">'.join(spans[:end])
        name = _TAG.sub("", shown).removeprefix("odeopt.")
        if _entry(name):
            return linked(name, shown) + path[len(shown) :]
    return path


def _full(name: str) -> str:
    """`RK4` as `solvers.RK4`: the name with the package that has it, unless odeopt has it too."""
    if hasattr(odeopt, name):
        return name
    owners = (package for package in _PACKAGES if hasattr(getattr(odeopt, package), name))
    return next((f"{package}.{name}" for package in owners), name)


def _entry(name: str) -> str | None:
    """Where a function or class of the package is defined, by which its entry is called."""
    package, dot, rest = name.partition(".")
    if (other := f"{_SHORT.get(package, package)}{dot}{rest}") in _ELSEWHERE:
        return other
    try:
        found = operator.attrgetter(name)(odeopt)
    except AttributeError:
        return None
    module = getattr(found, "__module__", "")
    return f"{module}.{found.__qualname__}" if callable(found) and "odeopt" in module else None


def _mathml(latex: str, display: str) -> str:
    return convert(html.unescape(latex).strip(), display=display)


def on_env(env: Any, config: Any, **_: Any) -> None:
    """Say where names of other libraries are explained, before references are resolved."""
    for name, url in _ELSEWHERE.items():
        config.plugins["autorefs"].register_url(name, url)


@event_priority(-200)  # after `offline`, which has -100
def on_post_build(config: Any, **_: Any) -> None:
    """Fail if a search misses what it is for, a page fetches, or no guide links a public name."""
    site = Path(config.site_dir)
    index = json.loads((site / "search/search_index.js").read_text().removeprefix("var __index = "))
    separator = re.compile(index["config"]["separator"])
    entries = {entry["location"]: f"{entry['title']} {entry['text']}" for entry in index["docs"]}
    for search, location in _SEARCHES.items():
        text = _TAG.sub(" ", entries.get(location, "")).lower()
        if not set(separator.split(search.lower())) & set(separator.split(text)):
            raise PluginError(f"A search for {search} does not find {location}.")
    unlinked = set(_public())
    for file in site.rglob("*.html"):
        name, text = file.relative_to(site).as_posix(), file.read_text()
        if fetched := _FETCHED.search(text):
            raise PluginError(f"{name} fetches from elsewhere: {fetched.group()}")
        if _guide(name):
            unlinked -= set(_ENTRY.findall(text))
    if unlinked:
        raise PluginError(f"No guide links {', '.join(sorted(unlinked))}.")


def _guide(page: str) -> bool:
    return not page.startswith(("api/", "changelog"))


@functools.cache
def _public() -> dict[str, str]:
    """By its entry, the shortest name of every function and class that a package of odeopt has."""
    packages = (odeopt, *(getattr(odeopt, package) for package in _PACKAGES))
    names = [f"{p.__name__}.{n}" for p in packages for n in dir(p) if not n.startswith("_")]
    names.sort(key=len, reverse=True)  # of two names the shorter one stays
    return {entry: n for n in names if (entry := _entry(n.removeprefix("odeopt.")))}
