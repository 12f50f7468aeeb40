"""Serves a Starlette application over HTTP, beside whatever else runs in the event loop.

The endpoints of the daemon use it. `app` has the names of starlette that they need, `server` runs
an application on an address, `limits` bounds what a client can cost.

Invariant: whatever clients do or fail to do, each costs a bounded amount of time and memory, and
all connections end when the server is closed.

May import: projections.errors, hosts; starlette and uvicorn, which no other folder imports.
"""
