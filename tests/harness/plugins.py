"""Installs projections of another package for the processes that a test starts.

Invariant: they are found only in the environment that is returned.
"""

import os
import textwrap
from pathlib import Path

# The projection `failing`, which applies entries up to a seq and then fails for ever.
_FAILING = """
from asyncio import sleep
from projections import Checkpoint


class Failing:
    name = "failing"

    async def open(self, home):
        {open}return Checkpoint(projection=self.name)

    async def apply(self, entries, *, before, after):
        if after.seq >= {seq}:
            {apply}raise RuntimeError("it cannot go on")

    async def status(self):
        return {{}}

    async def close(self):
        pass
"""
HANG = "await sleep(600); "


def failing(seq: int, *, open_: str = "", apply: str = "") -> str:
    """The source of a projection that fails at entry `seq`; `open_` and `apply` run before."""
    return _FAILING.format(seq=seq, open=open_, apply=apply)


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
