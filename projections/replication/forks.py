"""What is said where an older primary has filled a stream that was created again.

Invariant: the mirror and `rejoin` say the same, and neither changes anything.
"""

from eventlog.plumbing import Fork

OLDER_STREAM_DO = (
    "stop `eventlog project` of the older primary, delete the stream, and create it again: the "
    "mirror of this home fills it; then run `eventlog rejoin` on the older one"
)


def older_stream_text(fork: Fork) -> str:
    """What happened, as a sentence without its end."""
    return (
        f"after seq {fork.seq} this log holds a promotion (epoch {fork.own_epoch}) that the stream "
        "does not: an older primary has filled the stream"
    )
