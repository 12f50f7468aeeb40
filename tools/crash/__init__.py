"""The crash-state explorer: the real writer and the real recovery on every disk a crash may leave.

    python -m tools.crash --states 1000000 --seed 1      a long run; prints how to repeat a failure

`simdisk` is a disk in memory that knows what was synced; `states` lists what a power loss may leave
of it; `expected` knows what the log owes to whom; `check` recovers a state and holds it against that.
`explore` and `readers` do so at each step of small histories, `rounds` at random moments of several
processes that die, fail to sync and lose power; `flips` and `damages` change what was durable.
`mutants` are writers, readers and disks with one mistake each, which all of this must find.

A projection's database is a register in `rounds`: after a power loss it holds any version since its
last synced commit, and a projector goes on from there. That its checkpoint is never beyond the log,
nor of another one, is asked of every version at once, for all that a reader gave out is owed after
each later power loss.

What is left out, because the log does not promise it: a flip in the last batch before the
watermark covers it, together with a power loss (`flips` counts them); a sector that is written by
halves (here it holds its new bytes or does not); the loss of the page that holds the lock's word
while its boot goes on; a directory sync that fails and, tried again, returns 0 without having done
anything.

Invariant: the explorer touches no real file.
"""
