"""The pages of health and metrics, made from how the server is.

Pure: values to pages. Two families of names, for whoever asks: ``/livez`` and
``/readyz`` answer in lines, KServe's ``/v2/health/live`` and ``/v2/health/ready`` in
JSON. Alive is who keeps processes and answers here; ready is who could take a run.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from bci_bridge.exposition import CONTENT_TYPE
from bci_bridge.http_head import Page
from bci_bridge.metrics import metrics_text
from bci_bridge.settings import ServeConfig
from bci_bridge.vitals import Vitals, what_is_degraded, why_not_live, why_not_ready

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"


def page_of(
    path: str, examine: Callable[[], Vitals], config: ServeConfig
) -> Page | None:
    """Give the page of a path; None where there is none.

    Args:
        path: Without query.
        examine: Says how the server is; only called for a path that exists.
        config: What it was told.
    """
    match path:
        case "/livez" | "/v2/health/live":
            return _verdict("live", why_not_live(examine(), config), [], path)
        case "/readyz" | "/v2/health/ready":
            vitals = examine()
            degraded = what_is_degraded(vitals, config)
            return _verdict("ready", why_not_ready(vitals, config), degraded, path)
        case "/metrics":
            return Page(200, CONTENT_TYPE, metrics_text(examine(), config))
    return None


def _verdict(what: str, reasons: list[str], degraded: list[str], path: str) -> Page:
    status = 503 if reasons else 200
    if path.startswith("/v2/"):
        said = {what: not reasons, "reasons": reasons, "degraded": degraded}
        return Page(status, JSON, msgspec.json.encode(said).decode() + "\n")
    lines = [f"not {what}" if reasons else what, *reasons]
    lines += [f"degraded: {one}" for one in degraded]
    return Page(status, TEXT, "".join(f"{line}\n" for line in lines))
