"""Eight hosts with lines of their own pull one image at the same moment, and something goes wrong meanwhile.

Whoever's own node lives gets the image and never a wrong byte, and the bucket is asked for two copies at most: what a
node had fetched and not passed on before it was gone, another one fetches again.
"""

import time

from pulls import MIB, Storm
from storm import StormCase

# So much of what all want has come when it goes wrong.
MIDST = 0.3
# Heads of answers come with the bytes.
ONE_COPY, TWO_COPIES, SHORT_ONES_BY_EACH = 1.02, 2.04, 3.4
STOPPED_SECONDS = 10
# A tenth of what the other lines let through. The image is smaller, so that it does not take too long.
NARROW_LINE = "10mbit"
NARROW_LAYERS = (9 * MIB, 20_000, 300)


class StormTest(StormCase):
    def test_two_nodes_are_killed(self):
        killed = self.nodes[1::4]
        storm = self.begin("killed")
        for node in killed:
            storm.excuse(node)
            node.kill()
        self.check_storm(storm, TWO_COPIES)
        # A client that tries again when its node is back gets the image.
        self.start_nodes()
        self.check_storm(Storm(storm.image, killed), ONE_COPY)

    def test_one_host_vanishes(self):
        vanished = self.nodes[2]
        storm = self.begin("vanished")
        storm.excuse(vanished)
        # First the line, so that nobody is told.
        with self.network.cut(vanished.host):
            vanished.kill()
            self.check_storm(storm, TWO_COPIES)

    def test_the_halves_do_not_reach_each_other(self):
        halves = self.nodes[::2], self.nodes[1::2]
        storm = self.begin("parted")
        with self.network.parted():
            self.check_storm(storm, TWO_COPIES)
            for half, other in (halves, halves[::-1]):
                self.wait_until_silent(half, other)
            self.check_storm(Storm(self.new_image("of-halves"), self.nodes), TWO_COPIES)
        self.wait_until_together()
        self.check_storm(Storm(self.new_image("joined"), self.nodes), ONE_COPY)

    def test_what_one_node_sends_to_others_is_damaged(self):
        line = self.damage(self.nodes[2])
        # A short blob is checked as a whole, so that nobody can tell who has damaged it: where that node owns it, each
        # fetches it from the bucket in the end.
        self.check_storm(Storm(self.new_image("damaged"), self.nodes), SHORT_ONES_BY_EACH)
        self.assertGreater(line.damaged, 0)

    def test_the_storage_stops_for_ten_seconds(self):
        storm = self.begin("stopped")
        with self.minio.stopped():
            time.sleep(STOPPED_SECONDS)
        self.check_storm(storm, TWO_COPIES)

    def test_one_node_joins_and_one_leaves(self):
        leaving = self.nodes[1]
        storm = self.begin("joined-and-left", 0.1)
        self.newcomer.start()
        storm.join(self.newcomer)
        storm.wait_for(0.4)
        storm.excuse(leaving)
        leaving.stop()
        self.check_storm(storm, TWO_COPIES)

    def test_one_node_has_a_tenth_of_the_bandwidth(self):
        slow = self.nodes[5].host
        self.network.limit(slow, NARROW_LINE)
        self.addCleanup(self.network.limit, slow, self.network.rate)
        self.check_storm(Storm(self.new_image("narrow", NARROW_LAYERS), self.nodes), TWO_COPIES)

    def begin(self, tag, share=MIDST):
        """All nodes' clients begin with a new image, and have got that far."""
        storm = Storm(self.new_image(tag), self.nodes)
        storm.wait_for(share)
        return storm
