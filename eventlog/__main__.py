"""The `eventlog` command as `python -m eventlog`."""

from eventlog.cli.main import main

if __name__ == "__main__":
    main()
