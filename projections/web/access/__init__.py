"""Access to the console: the login, and what is checked before a handler sees a request.

Invariant: a handler sees only requests to a known name, from a session, and from our own pages.

May import: serving, run_directory, web.answers, web.console, web.pages; eventlog.
"""
