"""The commands of replication, and its settings from the environment.

Invariant: addresses and keys come from the environment, never from arguments.
"""
