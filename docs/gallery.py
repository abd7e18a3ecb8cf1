"""The gallery: each script of docs/gallery becomes a page with its figure, lesson and run time.

A hook of mkdocs. A script is a module whose docstring is the page's text, and which leaves its
figure in `figure`. To draw one by itself: `python docs/gallery.py SCRIPT FILE.svg`.
"""

import ast
import functools
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

SCRIPTS = Path(__file__).parent / "gallery"
_DRAW = """
import runpy, sys, matplotlib
matplotlib.use("agg")
matplotlib.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "odeopt", "font.family": "sans-serif",
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
})
figure = runpy.run_path(sys.argv[1])["figure"]
figure.savefig(sys.argv[2], format="svg", metadata={"Date": None})
"""


def draw(script: Path, target: Path) -> float:
    """Run a script and save its figure; the seconds that took, imports and compilation included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", _DRAW, script, target], check=True)
    return time.perf_counter() - start


@functools.cache  # while `mkdocs serve` runs, a script runs again when it has changed
def _page(script: Path, source: str) -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "figure.svg"
        seconds = draw(script, target)
        picture = target.read_bytes()
    module = ast.parse(source)
    text = ast.get_docstring(module)
    assert text is not None, f"{script} has no docstring, which is the text of its page"
    title, _, rest = text.partition("\n")
    code = "\n".join(source.splitlines()[module.body[0].end_lineno :]).strip()
    return (
        f"{title}\n\n![{title.strip('# ')}]({script.stem}.svg)\n{rest}\n\n"
        f"Run time: {seconds:.0f} seconds on the machine that built this page.\n\n"
        f"```python\n{code}\n```\n"
    ), picture


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, their figures, and the contents with every figure and lesson."""
    contents = ["# Gallery\n\nEvery page is a script that ran when this site was built.\n"]
    for script in sorted(SCRIPTS.glob("*.py")):
        page, picture = _page(script, script.read_text())
        place = f"gallery/{script.stem}"
        files.append(File.generated(config, f"{place}.md", content=page))
        files.append(File.generated(config, f"{place}.svg", content=picture))
        title = page.partition("\n")[0].strip("# ")
        lesson = page.partition("**Lesson**: ")[2].partition("\n\n")[0]
        lesson = lesson[:1].upper() + lesson[1:]
        contents += [
            f"## [{title}]({script.stem}.md)\n",
            f"[![{title}]({script.stem}.svg)]({script.stem}.md)\n",
            f"{lesson}\n",
        ]
    files.append(File.generated(config, "gallery/index.md", content="\n".join(contents)))
    return files


if __name__ == "__main__":
    draw(SCRIPTS / f"{sys.argv[1]}.py", Path(sys.argv[2]))
