"""The tests, as a package: so that a test finds `tests.support` wherever it is run from."""
