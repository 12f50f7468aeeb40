"""`python -m eventlog`: runs the same command as `eventlog`.

Invariant: importing this module runs nothing.
"""

from eventlog.cli.main import main

if __name__ == "__main__":
    main()
