"""Evidence for outsiders: a Merkle tree over the lines of the log, signed checkpoints and proofs.

The formats are those of C2SP: signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof and
tlog-tiles (https://c2sp.org). The modules from `encoding` to `proof` are pure: they see no disk, no
clock and no environment. `keys` is the only one that needs the extra `evidence`.

Invariant: a text that a parser accepts is the only spelling of what it returns.

May import: projections.errors, projection, runtime.
"""
