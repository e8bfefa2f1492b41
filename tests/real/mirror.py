"""Millpond as a mirror: with upstreams, and with eyes for what it asked them."""

import re

import parts
from process import run_both
from registries import Millpond
from wire import Client

METRIC = re.compile(r"^(?P<name>\w+)\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE)


class Mirror(Millpond):
    """Millpond with the upstreams of these settings, the list `upstreams` of its configuration."""

    def __init__(self, store, folder, upstreams):
        self._upstreams = upstreams
        super().__init__(store, folder)

    def settings(self):
        return super().settings() | {"upstreams": self._upstreams}

    def counters(self, name):
        """The values of one metric by its labels, as they are written."""
        text = Client(self.admin_address).expect(200, "GET", "/metrics").body.decode()
        return {
            found["labels"]: float(found["value"])
            for found in METRIC.finditer(text) if found["name"] == name}

    def prewarm(self, *images):
        """Has `millpond prewarm` pull images, and gives what it said about that, line by line."""
        command = [parts.path("millpond"), "prewarm", "--server", f"http://{self.address}", *images]
        return run_both(*command)[1].splitlines()

    def requests_upstream(self):
        """How many requests went to each upstream, by their kind and outcome."""
        return self.counters("millpond_upstream_requests_total")

    def blobs_asked_for(self):
        """How many blobs of each upstream clients have asked for, by the outcome."""
        counted = self.counters("millpond_mirror_requests_total")
        return {labels: value for labels, value in counted.items() if 'kind="blob"' in labels}
