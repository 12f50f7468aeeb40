"""The text formats of C2SP and the Merkle tree of RFC 6962, as all other folders use them. Pure.

Invariant: a text that a parser accepts is the only spelling of what it returns.

May import: projections.errors. `keys` is the only module here that needs the extra `evidence`.
"""
