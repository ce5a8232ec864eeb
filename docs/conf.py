"""The documentation site: the pages of this folder, and the API from the docstrings. ``make docs`` builds it."""

import contextlib
import io
import re
from importlib.metadata import version as installed
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import inspect

from latticegnn.cli import COMMANDS, main

project, author, copyright = "latticegnn", "the latticegnn authors", "2026, the latticegnn authors"
version = release = installed("latticegnn")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "myst_parser",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "latticegnn"
html_theme_options = {"navigation_with_keys": True}
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]

# Docstrings write `name` for whatever has a name: a link where it is documented here, and code elsewhere.
default_role = "py:obj"
napoleon_custom_sections = [("Shapes", "notes_style")]
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
# References to other libraries lead nowhere, as the site is built without the network.
nitpicky = True
nitpick_ignore_regex = [("py:obj", ".*"), ("py:.*", r"(?!latticegnn).*"), ("py:class", r".*\._\w+|.*\.Model")]

BESIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LOG.md": "log.md",
}
"""Files of the repository's root that pages link to, and the pages that hold them."""


def printed_help(command: str) -> list[str]:
    """Return the parts of what ``latticegnn COMMAND --help`` prints: usage, description, options, sections."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        status = main([command, "--help"])
        raise RuntimeError(f"latticegnn {command} --help must print and exit; it returned {status}; mend it.")
    return told.getvalue().strip().split("\n\n")


HELP = {command: printed_help(command) for command in COMMANDS}
"""Asked for before anything is documented: autodoc puts its own objects in the place of functions' defaults."""


class CommandHelp(Directive):
    """What ``latticegnn COMMAND --help`` prints, without its usage line; with ``own`` without its sections, too."""

    required_arguments = 1
    option_spec = {"own": directives.flag}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Take what the program printed."""
        _, *parts = HELP[self.arguments[0]]
        text = "\n\n".join(parts[:2] if "own" in self.options else parts)
        return [nodes.literal_block(text, text, language="text")]


def link_by_short_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.Element) -> Any:
    """Link `LatticeSpec`, `Ports.nodes` or `latticegnn.nn.LatticeCell` to the one documented object of that name."""
    if node.get("refdomain") != "py":
        return None
    target = re.sub(r"^lg\.", "latticegnn.", node["reftarget"])
    room, _, last = target.rpartition(".")
    objects = env.domains.python_domain.objects
    found = [name for name in objects if name.endswith(f".{target}")]
    if room.startswith("latticegnn"):  # rooms export what their modules define
        found = [name for name in objects if name.startswith(f"{room}.") and name.endswith(f".{last}")]
    classes = [name for name in found if objects[name].objtype in ("class", "exception", "function", "data")]
    for names in (classes, found):
        if len(names) == 1:
            place = objects[names[0]]
            uri = app.builder.get_relative_uri(node["refdoc"], place.docname) + "#" + place.node_id
            return nodes.reference("", "", shown, internal=True, refuri=uri, reftitle=names[0])
    return None


def own_signature(app: Sphinx, what: str, name: str, it: Any, options: Any, signature: str, returns: str) -> Any:
    """Show a class's own constructor where a base class has a ``__new__`` that takes anything."""
    if what != "class" or signature != "(*args, **kwargs)" or "__init__" not in vars(it):
        return None
    own = inspect.signature(it.__init__, bound_method=True)
    return inspect.stringify_signature(own, unqualified_typehints=True, short_literals=True), returns


def link_beside(app: Sphinx, page: str, source: list[str]) -> None:
    """Turn links to the root's own Markdown files into links to the pages that hold them."""
    for file, name in BESIDE.items():
        source[0] = source[0].replace(f"](../{file}", f"]({name}")


def setup(app: Sphinx) -> None:
    """Add the directive and what mends signatures and links."""
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-process-signature", own_signature)
    app.connect("missing-reference", link_by_short_name)
    app.connect("source-read", link_beside)
