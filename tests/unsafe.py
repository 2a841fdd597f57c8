"""What could run, or believe without looking, what a file or a peer says.

Found in the syntax tree, so that it also holds for lines that no test executes. Calls
are judged as they are written; whoever imports a dangerous function by its own name is
found at the import. What happens at run time `tests.integration.audited` sees.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

MODULES = {
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "msgpack",
    "pickle",
    "ruamel",
    "shelve",
    "yaml",
}
"""Their decoders build whatever the data names, or have no types."""

BUILTINS = {"__import__", "compile", "eval", "exec"}
CALLS = {
    "msgpack.unpackb",
    "msgspec.toml.decode",
    "msgspec.yaml.decode",
    "os.popen",
    "os.system",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "tempfile.mktemp",
}
TYPED = {
    f"msgspec.{form}.{what}"
    for form in ("json", "msgpack")
    for what in ("Decoder", "decode")
}
UNTYPED_JSON = {"json.load", "json.loads"}
ANYTHING = {"Any", "dict", "list", "object", "typing.Any"}
"""Types that say nothing of what is inside."""


def unsafe(file: Path) -> Iterator[str]:
    """Name everything in a module that could run or blindly believe what is read."""
    tree = ast.parse(file.read_text("utf-8"))
    # Of what nobody takes nothing can come: JSON may be read only to look at its keys.
    dropped = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and any(
            isinstance(field, ast.keyword) and field.arg == "object_pairs_hook"
            for field in ast.iter_child_nodes(node.value)
        )
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
            yield from (name for name in names if name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            yield from _imported(node)
        elif isinstance(node, ast.Call):
            yield from _called(node, is_dropped=id(node) in dropped)


def _imported(node: ast.ImportFrom) -> Iterator[str]:
    module = node.module or ""
    if module.partition(".")[0] in MODULES:
        yield module.partition(".")[0]
    for alias in node.names:
        name = f"{module}.{alias.name}"
        if name in CALLS | TYPED | UNTYPED_JSON:
            yield f"{name} by another name"


def _called(node: ast.Call, *, is_dropped: bool) -> Iterator[str]:
    called = ast.unparse(node.func)
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if called.removeprefix("builtins.") in BUILTINS:
        yield called.removeprefix("builtins.")
    if called in CALLS or (called in UNTYPED_JSON and not is_dropped):
        yield called
    if called in TYPED:
        place = 0 if called.endswith("Decoder") else None
        if _says_nothing(node, given, place):
            yield f"{called} without a type"
    if called == "torch.load" and not _is(given.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if called in ("np.load", "numpy.load") and len(node.args) > 2:
        yield "numpy.load with allow_pickle"
    # `numpy.ndarray.dump` is a pickle; JSON is written by its own module.
    if called.endswith((".dump", ".dumps")) and not called.startswith("json."):
        yield "dump of an array"
    if "allow_pickle" in given and not _is(given["allow_pickle"], False):
        yield "allow_pickle"
    if "shell" in given and not _is(given["shell"], False):
        yield "shell"


def _says_nothing(
    node: ast.Call, given: dict[str | None, ast.expr], place: int | None
) -> bool:
    kind = given.get("type")
    if kind is None and place is not None and len(node.args) > place:
        kind = node.args[place]
    if kind is None:
        return True
    text = ast.unparse(kind)
    return text in ANYTHING or text.endswith((", Any]", "[Any]"))


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
