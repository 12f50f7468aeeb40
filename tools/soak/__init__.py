"""The soak: everything at once, for minutes or hours, while everything is killed at random.

    python -m tools.soak --minutes 5 --seed 7

Three generators append (one through the Python API, two through `eventlog append`), each life of
one with a clock of its own, that is hours, days or years off; daemons project and deliver, two of
each at times; segments are small. Generators, daemons, the reference Alpine and its PostgreSQL are
killed with SIGKILL, again and again.

At the end all that was ever acknowledged is in the log once, in order, and the log verifies; log,
SQLite and Alpine hold the same signals; and the daemons that were never killed have not grown.

The seed decides who dies when, and which clocks are wrong. What the machine makes of that differs
from run to run, so a seed repeats a story, not a failure.
"""
