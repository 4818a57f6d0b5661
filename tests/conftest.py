"""No garbage is looked for while tests are collected.

What is imported stays, so looking at it is lost time: a third of a collection's. And CPython before 3.11.8 counts the
depth of all that is parsed in one place: pytest parses each test and all of hypothesis, and garbage whose end parses
something in between (printing a traceback does) makes that fail with "AST constructor recursion depth mismatch"
(https://github.com/python/cpython/issues/106905).
"""

from __future__ import annotations

import gc

gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
