"""Evidence for outsiders: a Merkle tree over the lines of the log, signed checkpoints and proofs.

The formats are those of C2SP: signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof,
tlog-tiles and the request body of tlog-witness (https://c2sp.org), and time stamps of RFC 3161.
`formats/` are texts and hashes, `kept/` is what a home keeps of them, `tree/` the tree on disk.
Above these, `signing/` makes checkpoints, `proofs/` makes and checks proofs, `stamps/` asks
authorities, and `handover/` is what outsiders get beside single proofs.

Invariant: nothing is signed, kept or handed over that was not verified.

May import: projections.errors, projection, run_directory, runtime, signals, sqlite, queries,
rebuild, export.
"""
