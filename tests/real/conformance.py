"""The specification's own conformance program, with everything it can test switched on."""

import contextlib
import xml.etree.ElementTree as xml

import parts
from process import CommandFailed, clean_environment, run

# How many tests this version of the program has.
TESTS = 1032
# It asks for manifests to be taken of which parts are missing.
REGISTRY_SETTINGS = {"references": "sparse"}


def outcomes(address, folder):
    """Runs it against a registry; how many tests passed, and what the others say."""
    environment = clean_environment(
        OCI_REGISTRY=address, OCI_TLS="disabled", OCI_VERSION="dev", OCI_DATA_SPARSE="true",
        OCI_REPO1="conformance/repo1", OCI_REPO2="conformance/repo2", OCI_RESULTS_DIR=folder)
    # Its status says too little: tests that were left out are no error to it.
    with contextlib.suppress(CommandFailed):
        run(parts.path("conformance"), environment=environment, folder=folder)
    report = xml.parse(folder / "junit.xml").getroot()
    # Parts of tests are counted there as well, and not all of them are listed.
    not_passed = sum(int(report.get(name, 0)) for name in ("failures", "errors", "skipped", "disabled"))
    tests = [test for test in report.iter("testcase") if test.get("status") != "passed"]
    others = {test.get("name"): test.get("status") for test in tests}
    return int(report.get("tests")) - not_passed, others
