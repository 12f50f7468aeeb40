"""The crash-state explorer: the real writer and the real recovery on every disk a crash may leave.

    python -m tools.crash --states 1000000 --seed 1      a long run; prints how to repeat a failure

- `simulated_disk`: a disk in memory that records what was synced.
- `states`: every content that a power loss may leave on that disk.
- `expected_log`: the entries that were acknowledged, and that must still be in the log.
- `check`: recovers a state and compares the result with the expected log.
- `exhaustive` and `readers`: run the check at each step of small histories.
- `random_histories`: run it at random steps of several processes that die, fail to sync and lose
  power.
- `flips` and `damages`: change bytes that were durable.
- `compressing`: power fails while segments are compressed or moved.
- `mutants`: writers, readers and disks with one mistake each, which the explorer must detect.

In `random_histories` the database of a projection is a register. After a power loss it holds any
version since its last synced commit, and a projector continues from that version. Its checkpoint is
never ahead of the log, and never of another log: whatever a reader returned counts as acknowledged
after each later power loss, so every version is checked at once.

Four failures are left out, because the log does not promise to survive them: a flip in the last
batch before the watermark covers it, together with a power loss (`flips` counts such flips); a
sector that is half written (here it holds its new bytes or its old ones); the loss of the page that
holds the lock record within one boot; a directory sync that fails and then, tried again, returns 0
without effect.

Invariant: the explorer touches no real file.
"""
