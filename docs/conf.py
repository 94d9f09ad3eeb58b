"""How the documentation becomes a site: `make docs`. What `_reference` writes follows from the code."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import _reference

from uws.version import VERSION

project, release = "uwsd", VERSION
copyright = "2026, the uwsd developers"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["proof/*"]
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline", "deflist"]
smartquotes_action = "q"  # options keep their dashes
html_theme = "furo"
html_title = "uwsd"
html_static_path: list[str] = []
man_pages = [("reference/commands", "uwsd", "offers programs as IVOA UWS services", [], 1)]
linkcheck_ignore = [r"http://127\.0\.0\.1[:/]"]
linkcheck_timeout = 30
linkcheck_retries = 2
# Words of shells and of logs in between make some of these no whole programs.
suppress_warnings = ["misc.highlighting_failure"]

_reference.write(Path(__file__).parent / "reference")
