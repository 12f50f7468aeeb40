"""Installs projections of another package for the processes that a test starts.

Invariant: they are found only in the environment that is returned.
"""

import os
import textwrap
from pathlib import Path


def plugins(folder: Path, **sources: str) -> dict[str, str]:
    """Installs a class Name for each source name=...; returns the environment that finds them."""
    info = folder / "others-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    lines = ["[eventlog.projections]"]
    for name, source in sources.items():
        (folder / f"others_{name}.py").write_text(textwrap.dedent(source))
        lines.append(f"{name} = others_{name}:{name.capitalize()}")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return first_on_path(folder)


def first_on_path(folder: Path) -> dict[str, str]:
    """The environment in which Python imports from `folder` first."""
    path = [str(folder), os.environ.get("PYTHONPATH", "")]  # it may name the checkout under test
    return {"PYTHONPATH": os.pathsep.join(filter(None, path))}
