"""skopeo 1.9: copies every kind of content and, told so, keeps every byte."""

import json

from case import Case
from containers import Containers
from layout import Layout


class SkopeoTest(Case):
    def test_a_large_image_is_copied_in_and_out(self):
        self.copy_in_and_out("large", "1")

    def test_an_index_is_copied_in_and_out(self):
        self.copy_in_and_out("index", "1")

    def test_zstd_layers_are_copied_in_and_out(self):
        self.copy_in_and_out("zstd", "1")

    def test_an_artifact_and_its_subject_are_copied_in_and_out(self):
        self.copy_in_and_out("artifact", "subject")
        self.copy_in_and_out("artifact", "referrer")
        if self.registry.has_referrers:
            layout = self.images.artifact
            found = self.client.referrers("skopeo/artifact", layout.digest("subject"))
            self.assertEqual([d["digest"] for d in found], [layout.digest("referrer")])

    def test_layers_are_compressed_to_zstd_on_the_way(self):
        target = f"docker://{self.name('skopeo/tozstd:1')}"
        self.skopeo()(
            "copy", "-q", "--dest-compress", "--dest-compress-format", "zstd",
            f"oci:{self.images.artifact.path}:subject", target)
        manifest = json.loads(self.client.manifest("skopeo/tozstd", "1"))
        self.assertEqual([l["mediaType"].rpartition("+")[2] for l in manifest["layers"]], ["zstd"])

    def test_tags_are_listed_inspected_and_deleted(self):
        self.copy_in("artifact", "subject", "skopeo/tags", "a")
        self.copy_in("artifact", "subject", "skopeo/tags", "b")
        repository = f"docker://{self.name('skopeo/tags')}"
        self.assertEqual(json.loads(self.skopeo()("list-tags", repository))["Tags"], ["a", "b"])
        facts = json.loads(self.skopeo()("inspect", f"{repository}:a"))
        self.assertEqual(facts["Digest"], self.images.artifact.digest("subject"))
        # By digest, so both tags of the manifest go with it.
        self.skopeo()("delete", f"{repository}:a")
        self.assertEqual(self.client.get_manifest("skopeo/tags", "b").status, 404)

    def copy_in_and_out(self, kind, name):
        """One layout into the registry and back into a new layout."""
        source, repository = getattr(self.images, kind), f"skopeo/{kind}"
        self.copy_in(kind, name, repository, name)
        self.check_pushed(source, name, repository, name)
        target = Layout(self.new_folder("layout"))
        self.skopeo()(
            "copy", "-q", "--all", "--preserve-digests",
            f"docker://{self.name(repository)}:{name}", f"oci:{target.path}:{name}")
        digest = source.digest(name)
        self.assertEqual(target.tree(target.digest(name)), source.tree(digest))

    def copy_in(self, kind, name, repository, tag):
        """One name of a layout into the registry."""
        source = getattr(self.images, kind)
        self.skopeo()(
            "copy", "-q", "--all", "--preserve-digests", f"oci:{source.path}:{name}",
            f"docker://{self.name(repository)}:{tag}")

    def skopeo(self):
        """skopeo as on a machine that has never seen a registry."""
        return Containers(self.new_folder("skopeo"), self.registry.address).skopeo
