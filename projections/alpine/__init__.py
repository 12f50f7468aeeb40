"""The Alpine backend over HTTP: client, wire contract, credentials, retry policy.

Invariant: the API key leaves this package only in the header of a request to the configured host.

May import: projections.errors, hosts, projection, signals, runtime; eventlog.
"""
