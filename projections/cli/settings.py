"""Settings of delivery, read from the environment.

Invariant: a key is read here and passed on; it is never printed.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from eventlog.plumbing import EXIT_COULD_NOT_RUN

if TYPE_CHECKING:
    from projections.delivery.projection import AlpineConfig, AlpineProjection


def alpine_projection() -> "AlpineProjection":
    """The entry point `alpine`: delivery configured by the environment."""
    from projections.delivery.projection import AlpineProjection

    return AlpineProjection(alpine_config(), on_failure=end_process)


def end_process(_error: BaseException) -> None:
    """Ends a daemon whose delivery failed, instead of running on without it. Already logged."""
    raise SystemExit(EXIT_COULD_NOT_RUN)


def alpine_config() -> "AlpineConfig":
    """The address and key of Alpine, or why delivery is disabled. An empty variable is unset."""
    from projections.alpine.credentials import FileKey, FixedKey
    from projections.delivery.projection import AlpineConfig

    def setting(name: str) -> str:
        return os.environ.get(name, "").strip()

    url, key_file = setting("ALPINE_API_URL"), setting("ALPINE_API_KEY_FILE")
    key_name = "ALPINE_API_KEY" if setting("ALPINE_API_KEY") else "ARGO_API_KEY"
    disabled = None
    if setting("ALPINE_SYNC_ENABLED").lower() in ("false", "0", "no", "off"):
        disabled = "ALPINE_SYNC_ENABLED is false"
    elif not url:
        disabled = "ALPINE_API_URL is not set"
    elif not key_file and not setting(key_name):
        disabled = "neither ALPINE_API_KEY_FILE nor ALPINE_API_KEY is set"
    key = FileKey(Path(key_file)) if key_file else FixedKey(setting(key_name), key_name)
    return AlpineConfig(url=url, key=key, disabled=disabled)
