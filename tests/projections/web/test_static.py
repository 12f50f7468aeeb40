"""The files of the pages: imports are met, no text is run, nothing is loaded elsewhere."""

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from importlib.resources import files

import pytest

STATIC = files("projections.web") / "static"
SOURCES: Mapping[str, str] = {
    found.name: found.read_text(encoding="utf-8") for found in STATIC.iterdir() if found.is_file()
}
MODULES = sorted(name for name in SOURCES if name.endswith(".js"))
PAGES = sorted(name for name in SOURCES if name.endswith(".html"))
IMPORT = re.compile(r"""\b(?:from|import)\s+"\./([\w.]+)";?""")
# Each is refused by the policy of the console as well; here it fails before a browser runs.
RUNS_TEXT = (
    *("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"),
    *("createContextualFragment", "setHTMLUnsafe", "DOMParser", "srcdoc", "javascript:"),
)
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, never loaded


class Inline(HTMLParser):
    """Collects what the policy refuses in a page: inline scripts, styles and handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._is_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        self._is_script = tag == "script"
        self.found += [f"{tag} {name}" for name in names if name == "style" or name[:2] == "on"]
        if tag == "style" or (tag == "script" and "src" not in names):
            self.found.append(tag)

    def handle_data(self, data: str) -> None:
        if self._is_script and data.strip():
            self.found.append(data.strip())


EXPORT = re.compile(r"^export (?:async )?(?:function|const|class) (\w+)", re.MULTILINE)


def exports_of(name: str) -> set[str]:
    return set(EXPORT.findall(SOURCES[name]))


def imports_of(name: str) -> dict[str, set[str]]:
    """The names that a module imports of each other module."""
    lists = re.findall(r'^import \{([^}]*)\} from "\./([\w.]+)"', SOURCES[name], re.MULTILINE)
    return {target: set(re.findall(r"\w+", names)) for names, target in lists}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_what_another_module_exports_and_uses_it(name: str) -> None:
    assert set(IMPORT.findall(SOURCES[name])) == set(imports_of(name))
    body = re.sub(r"^import [^;]*;", "", SOURCES[name], flags=re.MULTILINE)
    for target, names in imports_of(name).items():
        assert names <= exports_of(target), f"{target} exports no {names - exports_of(target)}"
        unused = {
            one for one in names if not re.search(rf"(?:(?<![\w.])|(?<=\.\.\.)){one}\b", body)
        }
        assert not unused, f"{name} imports {unused} and does not use it"


def test_every_module_is_loaded_by_a_page() -> None:
    """The pages import the modules of the paths by name."""
    entries = {
        found for page in PAGES for found in re.findall(r"/static/([\w.]+\.js)", SOURCES[page])
    }
    paths = dict(re.findall(r'"(/\w*)": "(\w+)"', SOURCES["shell.js"]))
    reached = entries | {f"{page}.js" for page in (*paths.values(), "signal")}
    while more := {target for name in reached for target in imports_of(name)} - reached:
        reached |= more
    assert reached == set(MODULES)


def test_every_export_is_used() -> None:
    """The shell uses TITLE, open and show of the pages by these names."""
    used = {
        (target, name)
        for one in MODULES
        for target, names in imports_of(one).items()
        for name in names
    }
    unused = {(one, name) for one in MODULES for name in exports_of(one)} - used
    assert {found for found in unused if found[1] not in {"TITLE", "open", "show"}} == set()


@pytest.mark.parametrize("name", MODULES)
def test_no_module_runs_text_or_parses_markup(name: str) -> None:
    assert [found for found in RUNS_TEXT if found in SOURCES[name]] == []


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_no_file_names_another_host(name: str) -> None:
    assert "://" not in SOURCES[name].replace(NAMESPACE, "")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_nothing_inline(name: str) -> None:
    parser = Inline()
    parser.feed(SOURCES[name])
    assert parser.found == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_files_that_are_there(name: str) -> None:
    named = re.findall(r'(?:href|src)="/static/([^"]+)"', SOURCES[name])
    assert named
    assert set(named) <= set(SOURCES)
