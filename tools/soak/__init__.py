"""The soak: everything at once, for minutes or hours, while everything is killed at random.

    python -m tools.soak --minutes 5 --seed 7

Three generators append, one through the Python API and two through `eventlog append`. Each process
of a generator has a clock of its own, which may be hours, days or years off. Daemons project and
deliver, at times two at once, and segments are small. Generators, daemons, the reference Alpine and
its PostgreSQL are killed with SIGKILL again and again.

At the end every acknowledged entry is in the log once, in order, and the log verifies. Log, SQLite
and Alpine hold the same signals. The daemons that were not killed have not grown.

The seed determines the kills and the wrong clocks. Their timing differs from run to run, so a seed
does not repeat a failure exactly.
"""
