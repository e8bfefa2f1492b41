"""The programs that speak OCI from a folder: crane, regctl, oras and helm."""

import json

from case import Case
from copying import CopyingCase
from images import ARTIFACT_TYPE
from process import clean_environment, run
import parts


class CraneTest(CopyingCase):
    program = "crane"

    def test_an_image_is_copied_to_another_repository_and_deleted(self):
        self.crane("push", self.images.zstd.path, self.name("crane/from:1"))
        self.crane("copy", self.name("crane/from:1"), self.name("crane/to:2"))
        self.check_pushed(self.images.zstd, "1", "crane/to", "2")
        self.assertEqual(self.crane("ls", self.name("crane/to")).split(), ["2"])
        listed = self.crane("catalog", self.registry.address).split()
        self.assertLessEqual({"crane/from", "crane/to"}, set(listed))
        digest = self.images.zstd.digest("1")
        self.crane("delete", self.name(f"crane/to@{digest}"))
        self.assertEqual(self.client.get_manifest("crane/to", digest).status, 404)

    def copy_in(self, layout, name, target, *options):
        self.crane("push", layout.path, target)

    def copy_out(self, target, layout, name, *options):
        self.crane("pull", "--format", "oci", target, layout.path)

    def crane(self, *words):
        """One crane command; its standard output."""
        return run(parts.path("crane"), *words)


class RegctlTest(CopyingCase):
    program = "regctl"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        settings = cls.new_folder("regctl") / "config.json"
        cls.environment = clean_environment(REGCTL_CONFIG=settings)
        cls.regctl("registry", "set", "--tls", "disabled", cls.registry.address)

    def test_an_artifact_follows_its_subject_in_and_out(self):
        layout, repository = self.images.artifact, "regctl/artifact"
        self.copy_in_and_out("artifact", "subject")
        self.copy_in_and_out("artifact", "referrer")
        listed = json.loads(self.regctl(
            "artifact", "list", "--format", "{{json .}}", self.name(f"{repository}:subject")))
        found = [(d["digest"], d["artifactType"]) for d in listed["descriptors"]]
        self.assertEqual(found, [(layout.digest("referrer"), ARTIFACT_TYPE)])
        pulled = self.new_layout()
        self.copy_out(self.name(f"{repository}:subject"), pulled, "subject", "--referrers")
        digest = layout.digest("referrer")
        self.assertEqual(pulled.tree(digest), layout.tree(digest))

    def test_an_artifact_put_on_an_image_is_listed_until_it_is_deleted(self):
        target = self.name("regctl/attached:1")
        self.copy_in(self.images.artifact, "subject", target)
        data = self.new_folder("file") / "signature"
        data.write_bytes(b"a signature")
        self.regctl("artifact", "put", "--artifact-type", "application/x.sign", "--file", data,
                    "--subject", target)
        digests = "{{range .Descriptors}}{{.Digest}}{{end}}"
        listing = ("artifact", "list", "--format", digests, target)
        digest = self.regctl(*listing).strip()
        self.assertEqual(
            self.regctl("artifact", "get", self.name(f"regctl/attached@{digest}")), "a signature")
        self.regctl("manifest", "delete", "--referrers", self.name(f"regctl/attached@{digest}"))
        self.assertEqual(self.regctl(*listing).strip(), "")

    def copy_in(self, layout, name, target, *options):
        self.regctl("image", "copy", *options, f"ocidir://{layout.path}:{name}", target)

    def copy_out(self, target, layout, name, *options):
        self.regctl("image", "copy", *options, target, f"ocidir://{layout.path}:{name}")

    @classmethod
    def regctl(cls, *words):
        """One regctl command; its standard output."""
        return run(parts.path("regctl"), *words, environment=cls.environment)


class OrasTest(CopyingCase):
    program = "oras"

    def test_an_artifact_follows_its_subject_in_and_out(self):
        self.copy_in_and_out("artifact", "referrer", "--recursive")
        layout, pulled = self.images.artifact, self.new_layout()
        subject = self.name(f"oras/artifact@{layout.digest('subject')}")
        self.copy_out(subject, pulled, "subject", "--recursive")
        digest = layout.digest("referrer")
        self.assertEqual(pulled.tree(digest), layout.tree(digest))

    def test_a_file_attached_to_an_artifact_is_discovered_and_pulled(self):
        folder, target = self.new_folder("files"), self.name("oras/files:1")
        (folder / "model.bin").write_bytes(b"weights" * 100_000)
        (folder / "card.txt").write_bytes(b"what it is")
        self.oras("push", "--no-tty", "--plain-http", "--artifact-type", "application/x.model",
                  target, "model.bin", folder=folder)
        self.oras("attach", "--no-tty", "--plain-http", "--artifact-type", "application/x.card",
                  target, "card.txt", folder=folder)
        shown = self.oras("discover", "--plain-http", "--format", "json", target)
        (card,) = json.loads(shown)["manifests"]
        self.assertEqual(card["artifactType"], "application/x.card")
        back = self.new_folder("files")
        for reference in (target, self.name(f"oras/files@{card['digest']}")):
            self.oras("pull", "--no-tty", "--plain-http", "--output", back, reference)
        for name in ("model.bin", "card.txt"):
            self.assertEqual((back / name).read_bytes(), (folder / name).read_bytes())

    def copy_in(self, layout, name, target, *options):
        self.oras("cp", "--no-tty", *options, "--from-oci-layout", f"{layout.path}:{name}",
                  "--to-plain-http", target)

    def copy_out(self, target, layout, name, *options):
        self.oras("cp", "--no-tty", *options, "--from-plain-http", target, "--to-oci-layout",
                  f"{layout.path}:{name}")

    def oras(self, *words, folder=None):
        """One oras command; its standard output."""
        return run(parts.path("oras"), *words, folder=folder)


class HelmTest(Case):
    def test_a_chart_is_pushed_and_pulled(self):
        folder = self.new_folder("helm")
        environment = clean_environment(**{
            f"HELM_{name}_HOME": folder / name for name in ("CACHE", "CONFIG", "DATA")})

        def helm(*words):
            return run(parts.path("helm"), *words, environment=environment, folder=folder)

        helm("create", "pond")
        helm("package", "pond")
        helm("push", "--plain-http", "pond-0.1.0.tgz", f"oci://{self.name('charts')}")
        self.client.check_tree("charts/pond", "0.1.0")
        (folder / "back").mkdir()
        helm("pull", "--plain-http", "--version", "0.1.0", "--destination", "back",
             f"oci://{self.name('charts/pond')}")
        pushed, pulled = folder / "pond-0.1.0.tgz", folder / "back/pond-0.1.0.tgz"
        self.assertEqual(pulled.read_bytes(), pushed.read_bytes())
        shown = helm("show", "chart", "--plain-http", f"oci://{self.name('charts/pond')}")
        self.assertIn("name: pond", shown)
