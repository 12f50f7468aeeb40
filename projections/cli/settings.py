"""Settings of delivery, read from the environment.

Invariant: a key is read here and passed on; it is never printed.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from eventlog.plumbing import printable_value, unquote

if TYPE_CHECKING:
    from projections.delivery.projection import AlpineConfig, AlpineProjection


def alpine_projection() -> "AlpineProjection":
    """The entry point `alpine`: delivery configured by the environment."""
    from projections.delivery.projection import AlpineProjection

    return AlpineProjection(alpine_config())


_ON = ("", "1", "true", "t", "yes", "y", "on", "enabled")  # an empty variable is unset
_OFF = ("0", "false", "f", "no", "n", "off", "disabled")


def alpine_config() -> "AlpineConfig":
    """The address and key of Alpine, or why nothing is delivered. An empty variable is unset."""
    from projections.alpine.credentials import FileKey, FixedKey
    from projections.delivery.projection import AlpineConfig

    url, key_file = _setting("ALPINE_API_URL"), _setting("ALPINE_API_KEY_FILE")
    key_name = "ALPINE_API_KEY" if _setting("ALPINE_API_KEY") else "ARGO_API_KEY"
    enabled = _setting("ALPINE_SYNC_ENABLED")
    is_refused = enabled.lower() not in (*_ON, *_OFF)
    disabled = None
    if is_refused:
        disabled = f"ALPINE_SYNC_ENABLED is neither true nor false (got {printable_value(enabled)})"
    elif enabled.lower() in _OFF:
        disabled = "ALPINE_SYNC_ENABLED is false"
    elif not url:
        disabled = "ALPINE_API_URL is not set"
    elif not key_file and not _setting(key_name):
        disabled = "neither ALPINE_API_KEY_FILE nor ALPINE_API_KEY is set"
    key = FileKey(Path(key_file)) if key_file else FixedKey(_setting(key_name), key_name)
    return AlpineConfig(url=url, key=key, disabled=disabled, is_refused=is_refused)


def _setting(name: str) -> str:
    return unquote(os.environ.get(name, ""))
