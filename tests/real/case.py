"""What every group of tests starts from: one registry on one fresh store."""

import unittest

from registries import BY_NAME
from stores import DRIVERS, BucketStore, DirectoryStore
from wire import Client


class Case(unittest.TestCase):
    """A group of tests on one driver; the runner sets `shared` and `driver`."""

    # What the groups of a run share: workspace, images, MinIO, and which registry it is.
    shared = None
    driver = None
    # On which drivers this group makes sense.
    drivers = DRIVERS
    # More of Millpond's section `registry`.
    registry_settings = {}
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.store = cls.new_store()
        cls.registry = cls.serve(cls.store)
        cls.client = Client(cls.registry.address)
        cls.images = cls.shared.images

    @classmethod
    def new_folder(cls, name):
        """A folder that goes when the group is done."""
        folder = cls.shared.workspace.folder(name)
        cls.addClassCleanup(cls.shared.workspace.discard, folder)
        return folder

    @classmethod
    def new_store(cls):
        """An empty store on this group's driver."""
        if cls.driver == "minio":
            return BucketStore(cls.shared.minio.create_bucket())
        return DirectoryStore(cls.new_folder("store"))

    @classmethod
    def serve(cls, store, name=None):
        """A registry that serves `store` until the group is done."""
        kind = BY_NAME[name or cls.shared.registry]
        registry = kind(store, cls.new_folder("registry"), cls.registry_settings)
        cls.start(registry)
        return registry

    @classmethod
    def start(cls, daemon):
        """Starts a daemon and stops it when the group is done."""
        cls.addClassCleanup(daemon.stop)
        daemon.start()
        return daemon

    def name(self, *path):
        """A repository's full name on this registry, as clients write it."""
        return "/".join((self.registry.address, *path))

    def check_pushed(self, layout, name, repository, reference):
        """The registry holds exactly what the layout holds under `name`."""
        self.assertEqual(
            self.client.check_tree(repository, reference), layout.tree(layout.digest(name)))
