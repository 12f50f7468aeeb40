"""Evidence for outsiders: a Merkle tree over the lines of the log, signed checkpoints and proofs.

The formats are those of C2SP: signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof and the
request body of tlog-witness (https://c2sp.org). `encoding`, `merkle`, `keys`, `note`, `checkpoint`,
`proof`, `growth` and `check` are pure: they see no disk, no clock and no environment. `keys` is the
only one that imports the package of the extra `evidence`.

Invariant: a text that a parser accepts is the only spelling of what it returns.

May import: projections.errors, projection, run_directory, runtime, queries.
"""
