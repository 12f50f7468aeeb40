"""The environment as the commands see it, and the end of a daemon's process.

Invariant: a key is read here and handed on; it is never printed.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from projections.delivery.projection import AlpineConfig, AlpineProjection
from projections.cli.common import EXIT_COULD_NOT_RUN


def alpine_projection() -> "AlpineProjection":
    """What the entry point `alpine` makes: delivery as the environment says."""
    from projections.delivery.projection import AlpineProjection

    return AlpineProjection(alpine_config(), on_failure=end_process)


def end_process(_error: BaseException) -> None:
    """A daemon whose delivery has died must not go on as if it delivered; it was said by then."""
    raise SystemExit(EXIT_COULD_NOT_RUN)


def alpine_config() -> "AlpineConfig":
    """Where Alpine is and with which key. An empty variable is unset."""
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
