"""A monitor that asks servers for their metrics once a second, as Prometheus would."""

import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence

PERIOD_S = 1.0
PATIENCE_S = 10.0
ALWAYS_THERE = "neuroflow_ready "


class Scraper:
    """Asks in a thread of its own for as long as it is entered.

    Attributes:
        answers: Whole pages that came, by HOST:PORT.
        failures: What came instead, in words.
    """

    def __init__(self, endpoints: Sequence[str]) -> None:
        self.answers: Counter[str] = Counter(dict.fromkeys(endpoints, 0))
        self.failures: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._body, name="scraper")

    def __enter__(self) -> "Scraper":
        self._began_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._took_s = time.monotonic() - self._began_s

    @property
    def per_s(self) -> float:
        """How often it was answered a second, by the server that answered least."""
        return round(min(self.answers.values()) / self._took_s, 2)

    def _body(self) -> None:
        due_s = time.monotonic()
        while not self._over.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s + PERIOD_S, time.monotonic())
            for endpoint in self.answers:
                self._ask(endpoint)

    def _ask(self, endpoint: str) -> None:
        try:
            url = f"http://{endpoint}/metrics"
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                page = answer.read().decode()
        except (OSError, urllib.error.HTTPError) as error:
            self.failures.append(f"{endpoint}: {error}")
            return
        if ALWAYS_THERE in page:
            self.answers[endpoint] += 1
        else:
            self.failures.append(f"{endpoint}: expected metrics, found {page[:80]!r}")
