"""Projections of somebody else, installed for the processes that a test starts.

Invariant: they are seen only where the environment that comes back is used.
"""

import os
import textwrap
from pathlib import Path


def plugins(folder: Path, **sources: str) -> dict[str, str]:
    """Installs classes Name by their sources name=...; gives the environment that finds them."""
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
    """The environment in which Python looks there first, and then where it would have looked."""
    path = [str(folder), os.environ.get("PYTHONPATH", "")]  # it may say which checkout is tested
    return {"PYTHONPATH": os.pathsep.join(filter(None, path))}
