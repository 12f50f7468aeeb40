"""Build hook of hatchling: puts man pages, made from the help, into the source distribution.

Invariant: no page is stored in the repository; each build makes its pages from its own code.
"""

import sys
import tomllib
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManPages(BuildHookInterface):  # type: ignore[type-arg]  # it names its own configuration
    """Writes the pages into a directory that lives as long as the build."""

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        self._directory = TemporaryDirectory()
        for name, text in man_pages_of(Path(self.root), self.metadata.version).items():
            path = Path(self._directory.name, name)
            path.write_text(text)
            build_data["force_include"][str(path)] = f"man/{name}"

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact_path: str) -> None:
        self._directory.cleanup()


def man_pages_of(root: Path, version: str) -> dict[str, str]:
    """The pages of the commands in the checkout at `root`, and of no other plug-in."""
    sys.path.insert(0, str(root))
    try:
        manual = import_module("eventlog.cli.manual")
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        plugins = project["entry-points"]["eventlog.commands"]
        pages: dict[str, str] = manual.man_pages(manual.program_with(plugins), version)
    finally:
        sys.path.remove(str(root))
    return pages
