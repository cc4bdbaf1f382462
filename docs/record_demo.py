"""Record `make demo` as the picture in the README: `python docs/record_demo.py`.

Runs it once for real and draws what it wrote, with standard error where a terminal shows it.
Arguments go to make.
"""

import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/demo.svg"

# rich's own template names web fonts; a picture in a repository loads nothing from the net.
TEMPLATE = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-family: arial; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def main() -> None:
    """Run the demonstration and write the picture."""
    run = subprocess.run(
        ["make", "--no-print-directory", "demo", *sys.argv[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    # All but the command that make echoes.
    lines = [line for line in run.stdout.splitlines() if "/steelyard up " not in line]
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(Text("$ make demo", style="bold"))
    console.print(Text("\n".join(lines)))
    svg = console.export_svg(title="steelyard", theme=MONOKAI, code_format=TEMPLATE)
    PICTURE.write_text(svg)


if __name__ == "__main__":
    main()
