"""Evidence for outsiders: a Merkle tree over the lines of the log, signed checkpoints and proofs.

The formats are those of C2SP: signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof,
tlog-tiles and the request body of tlog-witness (https://c2sp.org), and time stamps of RFC 3161.
`encoding`, `merkle`, `keys`, `note`, `checkpoint`, `proof`, `growth`, `check` and `stamp` are pure:
they see no disk, no clock and no environment. `keys` and `stamp` are the only ones that import the
packages of the extra `evidence`; `timestamp` asks an authority over HTTP. `handover/` is what
outsiders get beside single proofs.

Invariant: a text that a parser accepts is the only spelling of what it returns.

May import: projections.errors, projection, run_directory, runtime, queries, rebuild, export.
"""
