"""skopeo 1.9: copies every kind of content and, told so, keeps every byte."""

import json

from containers import Containers
from copying import CopyingCase


class SkopeoTest(CopyingCase):
    program = "skopeo"

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
        for tag in ("a", "b"):
            self.copy_in(self.images.artifact, "subject", self.name(f"skopeo/tags:{tag}"))
        repository = f"docker://{self.name('skopeo/tags')}"
        self.assertEqual(json.loads(self.skopeo()("list-tags", repository))["Tags"], ["a", "b"])
        facts = json.loads(self.skopeo()("inspect", f"{repository}:a"))
        self.assertEqual(facts["Digest"], self.images.artifact.digest("subject"))
        # By digest, so both tags of the manifest go with it.
        self.skopeo()("delete", f"{repository}:a")
        self.assertEqual(self.client.get_manifest("skopeo/tags", "b").status, 404)

    def copy_in(self, layout, name, target, *options):
        self.copy(f"oci:{layout.path}:{name}", f"docker://{target}")

    def copy_out(self, target, layout, name, *options):
        self.copy(f"docker://{target}", f"oci:{layout.path}:{name}")

    def copy(self, source, target):
        """Copies all of it as it is."""
        self.skopeo()("copy", "-q", "--all", "--preserve-digests", source, target)

    def skopeo(self):
        """skopeo as on a machine that has never seen a registry."""
        return Containers(self.new_folder("skopeo"), self.registry.address).skopeo
