"""Shared by all tests."""

import airnet_basicsr  # noqa: F401  (first of all: BasicSR 1.4.2 cannot be imported without its repairs)
