"""Read English prose out of Python source files: docstrings, reference topics and sentences.

Files are parsed with `ast` and never imported, so reading a module cannot run it.
"""

import ast
import functools
import inspect
import logging
import re
import string
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger("latticegnn")

MIN_WORDS, MAX_WORDS = 4, 60
MIN_LETTER_RATIO = 0.78
"""Share of ASCII letters and spaces below which a sentence reads as code, a table or a formula."""

_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib-dynload", "pydoc_data"}
    # Generated files, whose docstrings differ in the name of a code page only: as documents they would be near copies
    # of each other on both sides of a split.
    | {"encodings"}
)
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!\bvs\.)(?<!\bcf\.)\s+(?=[\"'(`*]*[A-Z])")
_BULLET = re.compile(r"^(?:[*+\-•]|\(?\d{1,2}[.)])\s+")
_UNDERLINE = re.compile(r"^[\W_]+$")
_DIRECTIVE = re.compile(r"^(?:\.\. |:\w+[^:]*:|@\w+)")
_CODE = re.compile(r">>>|::=|\b\w+\s*=\s*\w+\(|[{}<>|\\=]{2}|^\s*(?:import|from|def|class|return|\$|#)\s")


@dataclass(frozen=True)
class Documented:
    """One documented object of a source file.

    Args:
        module: Dotted name of the file's module, e.g. `"unittest.mock"`.
        name: Qualified name, e.g. `"collections.OrderedDict.move_to_end"`.
        signature: Parameters in parentheses without annotations, `""` where the object takes none to show.
        doc: The docstring, its indentation removed.
    """

    module: str
    name: str
    signature: str
    doc: str


def python_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield `(dotted module name, file)` of every module below `root`, in sorted order, test folders left out."""
    folders = [root]
    while folders:
        folder = folders.pop()
        entries = sorted(folder.iterdir(), reverse=True)
        # Only the top folder is not a package itself; below it, a folder without a package's name holds no modules.
        folders += [e for e in entries if e.is_dir() and e.name.isidentifier() and e.name not in _SKIPPED_FOLDERS]
        for file in reversed(entries):
            if file.suffix == ".py" and file.stem.isidentifier():
                parts = file.relative_to(root).with_suffix("").parts
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def parse(file: Path) -> ast.Module | None:
    """Parse one file; a file that is no valid Python gives None and a warning in the log."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escape sequences in foreign files are no concern of the reader
            return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        logger.warning("left out of the corpus, not parsable as Python: %s (%s)", file, error)
        return None


@functools.lru_cache(maxsize=2)
def documented_objects(root: Path) -> tuple[Documented, ...]:
    """Read every module below `root`, once per process: it takes seconds, and both corpora need it."""
    trees = ((module, parse(file)) for module, file in python_files(root))
    return tuple(entry for module, tree in trees if tree is not None for entry in documented(module, tree))


def documented(module: str, tree: ast.Module) -> Iterator[Documented]:
    """Yield the module itself, its classes, functions and methods that carry a docstring, in source order."""
    doc = ast.get_docstring(tree)
    if doc:
        yield Documented(module, module, "", doc)
    yield from _documented_below(module, module, tree.body, in_class=False)


def _documented_below(module: str, prefix: str, body: list[ast.stmt], in_class: bool) -> Iterator[Documented]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            name = f"{prefix}.{node.name}"
            doc = ast.get_docstring(node)
            if doc:
                init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
                yield Documented(module, name, _signature(init, method=True) if init else "", doc)
            yield from _documented_below(module, name, node.body, in_class=True)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if doc:
                static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
                signature = _signature(node, method=in_class and not static)
                yield Documented(module, f"{prefix}.{node.name}", signature, doc)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for block in ("body", "orelse", "finalbody"):
                yield from _documented_below(module, prefix, getattr(node, block, []), in_class)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, method: bool) -> str:
    arguments = node.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if argument is not None:
            argument.annotation = None
    text = ast.unparse(arguments)
    first = arguments.posonlyargs or arguments.args
    if method and first:  # self or cls says nothing
        text = text.removeprefix(first[0].arg).removeprefix(", /").removeprefix(", ")
    return f"({text})"


def topics(file: Path) -> dict[str, str]:
    """Read the `topics = {...}` literal of `pydoc_data/topics.py`: topic name → text.

    Raises:
        ValueError: When the file does not hold such a literal.
    """
    tree = parse(file)
    for node in tree.body if tree else []:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "topics" and isinstance(node, ast.Assign | ast.AnnAssign):
            assert node.value is not None
            return dict(sorted(ast.literal_eval(node.value).items()))
    raise ValueError(
        f"The reference topics must be a dict literal named `topics`; {file} holds none. "
        "Use a complete CPython installation, or a text file of your own (task 'file')."
    )


def sentences_of(text: str, summary: bool = False) -> list[str]:
    """Split prose into sentences; headings, code, doctests, tables and fragments are left out.

    A sentence ends in `.`, `!` or `?`, has 4 to 60 words, starts with a letter or quote and consists mostly of ASCII
    letters (`MIN_LETTER_RATIO`). With `summary`, the first paragraph may lack the final stop, as a docstring's summary
    often does.
    """
    found = []
    for number, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(text))):
        endings = (".", "!", "?", *string.ascii_letters) if summary and number == 0 else (".", "!", "?")
        for block in _blocks(paragraph):
            found += [s for s in map(str.strip, _SENTENCE_END.split(block)) if s.endswith(endings) and _is_prose(s)]
    return found


def _blocks(paragraph: str) -> Iterator[str]:
    """Join a paragraph's lines into running text; a bullet starts a new block, a doctest ends the paragraph."""
    block: list[str] = []
    for line in paragraph.splitlines():
        line = " ".join(line.split())
        if line.startswith((">>>", "$ ")):
            break
        if _UNDERLINE.match(line) or _DIRECTIVE.match(line):
            line = ""
        if not line or _BULLET.match(line):
            yield " ".join(block)
            block = []
        line = _BULLET.sub("", line)
        if line:
            block.append(line)
    yield " ".join(block)


def _is_prose(sentence: str) -> bool:
    if _CODE.search(sentence):
        return False
    if not (sentence[0].isalpha() or sentence[0] in "\"'`*("):
        return False
    letters = sum(c.isascii() and (c.isalpha() or c == " ") for c in sentence)
    return MIN_WORDS <= len(sentence.split()) <= MAX_WORDS and letters >= MIN_LETTER_RATIO * len(sentence)
