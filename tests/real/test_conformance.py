"""The specification's own conformance program finds nothing."""

import conformance
from case import Case


class ConformanceTest(Case):
    registry_settings = conformance.REGISTRY_SETTINGS

    def test_every_test_of_the_specification_passes(self):
        passed, others = conformance.outcomes(self.registry.address, self.new_folder("conformance"))
        self.assertEqual(others, {})
        self.assertEqual(passed, conformance.TESTS)
