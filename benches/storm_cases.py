"""The storms: who pulls what over which lines, what happens meanwhile, and what is demanded of Millpond."""

import dataclasses

import storm_images

MIB = 1 << 20
# What headers leave of a line.
GOODPUT = 0.963
IMAGE_LAYERS = [size * MIB for size in (32, 16, 12, 4)]
TINY_LAYERS = [20_000] * 50
SMALL_LAYERS = [size * MIB for size in (16, 8, 6, 2)]
MBIT = 10**6
SCALE_HOSTS = (4, 8, 16, 32)
SCALE_RATE, SLOW_RATE = 25 * MBIT, 5 * MBIT
SHAPE_SERVERS, SHAPE_CLIENTS, SHAPE_RATE = 3, 13, 100 * MBIT
PART_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that is done so many seconds after the begin."""

    seconds: float
    verb: str
    hosts: tuple = ()


@dataclasses.dataclass(frozen=True)
class Bound:
    """What the median over the rounds of a measure may be at most; of a strict one, every round."""

    key: str
    most: float
    strict: bool = False


def once(times, headers=0.02):
    """Bounds of what leaves the origin: by its own account, which knows nothing of some answers that break
    off, and by its line, which counts headers."""
    return [Bound("origin_ratio", times), Bound("line_ratio", times + headers)]


UNBROKEN = Bound("failed", 0, strict=True)


@dataclasses.dataclass
class Plan:
    """One storm. Hosts are numbered from 1."""

    case: str
    title: str
    # Bits per second: of each host in its turn, and of the origin.
    rates: list
    origin_rate: int
    images: list
    # The image that each host pulls, if it does.
    pulls: dict
    # Whose pulls count; the storm is over when they are done.
    judged: set = None
    # Hosts whose servers all clients ask, in turn; otherwise each host has its own.
    servers: tuple = ()
    # Hosts whose servers are not there at the begin.
    absent: set = dataclasses.field(default_factory=set)
    events: list = dataclasses.field(default_factory=list)
    # A host whose answers to others are damaged on their way.
    damaged: int = None
    bounds: list = dataclasses.field(default_factory=list)
    # Whether its lines are what it waits for. Otherwise its processors may be busy.
    is_timed: bool = True

    def __post_init__(self):
        self.judged = set(self.pulls) if self.judged is None else self.judged

    def pulled_images(self):
        return [self.images[number] for number in sorted(set(self.pulls.values()))]

    def distinct_bytes(self):
        return sum(image.size_bytes for image in self.pulled_images())

    def ideal_seconds(self):
        """The least time in which lines let all judged hosts have their images, if every byte leaves the
        origin once and all lines of those that serve are full."""
        sizes = {host: self.images[self.pulls[host]].size_bytes for host in self.judged}
        uploads = [self.rates[host - 1] for host in self.servers] or self.rates
        # Between clients and servers that are others, the origin's line helps nobody.
        all_uploads = sum(uploads) + (0 if self.servers else self.origin_rate)
        bounds = [self.distinct_bytes() / self.origin_rate, sum(sizes.values()) / all_uploads]
        bounds += [size / self.rates[host - 1] for host, size in sizes.items()]
        return 8 * max(bounds) / GOODPUT


class Cases:
    """Makes plans for so many hosts of such lines; the cases that have numbers of their own say so."""

    def __init__(self, hosts, rate, origin_rate, shape):
        self.hosts = hosts
        self.rate = rate
        self.origin_rate = origin_rate
        self.shape = shape

    def plans(self, name):
        return getattr(self, name.lower())()

    def plan(self, case, title, **changes):
        """All hosts pull the one image."""
        hosts = len(changes["rates"]) if "rates" in changes else self.hosts
        default = {
            "rates": [self.rate] * hosts,
            "origin_rate": self.origin_rate or self.rate,
            "images": [storm_images.Image(0, IMAGE_LAYERS)],
            "pulls": {host: 0 for host in range(1, hosts + 1)},
        }
        return Plan(case, title, **(default | changes))

    def t1(self):
        bounds = [UNBROKEN, Bound("p50_ratio", 1.2), Bound("most_ratio", 1.35), *once(1.02)]
        if self.shape == "servers":
            servers = tuple(range(1, SHAPE_SERVERS + 1))
            clients = range(SHAPE_SERVERS + 1, SHAPE_SERVERS + SHAPE_CLIENTS + 1)
            rates = [SHAPE_RATE] * SHAPE_SERVERS + [self.rate] * SHAPE_CLIENTS
            title = f"{SHAPE_CLIENTS} clients of {SHAPE_SERVERS} servers pull one image"
            pulls = {host: 0 for host in clients}
            return [self.plan("S2", title, rates=rates, pulls=pulls, servers=servers, bounds=bounds)]
        return [self.plan("T1", "all hosts pull one image", bounds=bounds)]

    def t2(self):
        """What is demanded is between the plans: see `Scale`."""
        return [
            self.plan(
                "T2",
                f"{hosts} hosts pull one image",
                rates=[SCALE_RATE] * hosts,
                origin_rate=self.origin_rate or SCALE_RATE,
                bounds=[UNBROKEN],
            )
            for hosts in SCALE_HOSTS
        ]

    def t3(self):
        slow = {2, self.hosts - 1}
        rates = [SLOW_RATE if host in slow else self.rate for host in range(1, self.hosts + 1)]
        fast = set(range(1, self.hosts + 1)) - slow
        bounds = [UNBROKEN, Bound("most_ratio", 2)]
        return [self.plan("T3", "two hosts have slow lines; the others count", rates=rates, judged=fast, bounds=bounds)]

    def t4(self):
        plan = self.plan("T4", "the servers of two hosts are killed; the others count")
        killed = (2, self.hosts - 1)
        plan.events = [Event(0.3 * plan.ideal_seconds(), "kill", killed)]
        plan.judged -= set(killed)
        plan.bounds = [UNBROKEN, Bound("most_ratio", 1.5)]
        return [plan]

    def t5(self):
        plan = self.plan("T5", "the servers of two hosts come and those of two go; the hosts that stay count")
        coming, going = (1, self.hosts), (2, self.hosts - 1)
        ideal = plan.ideal_seconds()
        plan.events = [Event(0.3 * ideal, "start", coming), Event(0.5 * ideal, "leave", going)]
        plan.absent = set(coming)
        for host in coming:
            del plan.pulls[host]
        plan.judged -= {*coming, *going}
        plan.bounds = [UNBROKEN, Bound("most_ratio", 1.5)]
        return [plan]

    def t6(self):
        plan = self.plan("T6", f"the halves do not reach each other for {PART_SECONDS} s")
        begin = 0.3 * plan.ideal_seconds()
        plan.events = [Event(begin, "part"), Event(begin + PART_SECONDS, "join")]
        plan.bounds = [UNBROKEN, *once(2)]
        return [plan]

    def t7(self):
        pulling = range(1, self.hosts + 1, 4)
        bounds = [UNBROKEN, Bound("sent_uninterested", 0.15)]
        title = f"{len(pulling)} of the hosts pull one image"
        return [self.plan("T7", title, pulls={host: 0 for host in pulling}, bounds=bounds)]

    def t8(self):
        title = "what one host sends to others is damaged on its way"
        return [self.plan("T8", title, damaged=2, bounds=[UNBROKEN])]

    def t9(self):
        images = [storm_images.Image(0, TINY_LAYERS)]
        # The config is a blob too.
        bounds = [UNBROKEN, Bound("blob_requests", len(TINY_LAYERS) + 1)]
        title = f"all hosts pull one image of {len(TINY_LAYERS)} layers of {TINY_LAYERS[0] // 1000} kB"
        return [self.plan("T9", title, images=images, bounds=bounds, is_timed=False)]

    def t10(self):
        count = self.hosts // 2
        images = [storm_images.Image(number, SMALL_LAYERS) for number in range(count)]
        pulls = {host: (host - 1) % count for host in range(1, 2 * count + 1)}
        bounds = [UNBROKEN, *once(1.02)]
        title = f"{count} images, each pulled by two hosts"
        return [self.plan("T10", title, images=images, pulls=pulls, bounds=bounds)]


NAMES = tuple(f"T{number}" for number in range(1, 11))


class Scale:
    """What T2 demands: the slowest of the many hosts is hardly slower than the slowest of the few."""

    MOST = 1.3

    def __init__(self, medians):
        """Seconds of the slowest, by the number of hosts."""
        self.medians = medians

    def missed(self):
        few, many = min(self.medians), max(self.medians)
        ratio = self.medians[many] / self.medians[few]
        if ratio > self.MOST:
            yield f"T2: the slowest of {many} hosts takes {ratio:.2f} x that of {few}, not {self.MOST}"
