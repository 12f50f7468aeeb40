"""Replication: the log as a stream of lines on a server, and what is written from it into a home.

Invariant: message N of a stream is, byte for byte, line N of the log. Only
`eventlog.replica.nats_connection` imports the client of NATS.

May import: eventlog.errors, format, schema, storage, read, append, verify.
"""
