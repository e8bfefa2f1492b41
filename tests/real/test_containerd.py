"""containerd 1.6 through `ctr`: every kind of content, kept as the bytes it was given."""

import tarfile

from case import Case
from engines import Containerd


class ContainerdTest(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.pusher = cls.start(Containerd(cls.new_folder("containerd")))
        cls.puller = cls.start(Containerd(cls.new_folder("containerd")))

    def test_a_large_image_is_pushed_and_pulled(self):
        self.push_and_pull("large")

    def test_an_index_with_all_its_platforms_is_pushed_and_pulled(self):
        self.push_and_pull("index")

    def test_zstd_layers_are_pushed_and_pulled(self):
        self.push_and_pull("zstd")

    def test_an_artifact_and_its_subject_are_pushed_and_fetched(self):
        layout, repository = self.images.artifact, "ctr/artifact"
        self.import_layout(layout, repository)
        for name in ("subject", "referrer"):
            target = self.name(f"{repository}:{name}")
            self.pusher.ctr("images", "push", "--plain-http", target)
            self.check_pushed(layout, name, repository, name)
            # Fetched, not pulled: an artifact has no file system to unpack.
            self.puller.ctr("content", "fetch", "--plain-http", target)
            self.assertLessEqual(layout.tree(layout.digest(name)), self.puller.contents())
        if self.registry.has_referrers:
            found = self.client.referrers(repository, layout.digest("subject"))
            self.assertEqual([d["digest"] for d in found], [layout.digest("referrer")])

    def push_and_pull(self, kind):
        """One layout through the registry into the second containerd."""
        layout, repository = getattr(self.images, kind), f"ctr/{kind}"
        self.import_layout(layout, repository)
        target = self.name(f"{repository}:1")
        self.pusher.ctr("images", "push", "--plain-http", target)
        self.check_pushed(layout, "1", repository, "1")
        self.puller.ctr("images", "pull", "--plain-http", "--all-platforms", target)
        self.assertLessEqual(layout.tree(layout.digest("1")), self.puller.contents())

    def import_layout(self, layout, repository):
        """Gives the pushing containerd a layout, under the names it is to be pushed to."""
        archive = self.new_folder("archive") / "layout.tar"
        with tarfile.open(archive, "w") as file:
            file.add(layout.path, arcname=".")
        self.pusher.ctr(
            "images", "import", "--all-platforms", "--no-unpack", "--base-name",
            self.name(repository), archive)
