"""What programs that copy between an OCI layout and a registry have in common.

Nothing may change on the way.
"""

from case import Case
from layout import Layout


class CopyingCase(Case):
    """A group of tests of one such program; a subclass says how it copies."""

    # The first component of its repositories.
    program = ""

    def copy_in(self, layout, name, target, *options):
        """Copies what a layout has under `name` to `target`, as clients write it."""
        raise NotImplementedError

    def copy_out(self, target, layout, name, *options):
        """Copies `target` to a layout that does not exist yet."""
        raise NotImplementedError

    def test_a_large_image_is_copied_in_and_out(self):
        self.copy_in_and_out("large", "1")

    def test_an_index_is_copied_in_and_out(self):
        self.copy_in_and_out("index", "1")

    def test_zstd_layers_are_copied_in_and_out(self):
        self.copy_in_and_out("zstd", "1")

    def copy_in_and_out(self, kind, name, *options):
        """One name of a layout into the registry and back into a new layout."""
        source, repository = getattr(self.images, kind), f"{self.program}/{kind}"
        target = self.name(f"{repository}:{name}")
        self.copy_in(source, name, target, *options)
        self.check_pushed(source, name, repository, name)
        pulled = self.new_layout()
        self.copy_out(target, pulled, name, *options)
        digest = source.digest(name)
        self.assertIn(digest, pulled.names().values())
        self.assertEqual(pulled.tree(digest), source.tree(digest))

    def new_layout(self):
        """A layout that is still to be made."""
        return Layout(self.new_folder("layout") / "made")
