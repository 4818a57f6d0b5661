"""The package's public list is what it exports."""

from __future__ import annotations

from types import ModuleType

import lockgate.policies


def test_all_is_complete() -> None:
    functions = {"explain", "lint"}  # named like their modules, which importing them sets on the package
    exported = {
        name
        for name, value in vars(lockgate.policies).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert exported == set(lockgate.policies.__all__)
    assert all(callable(getattr(lockgate.policies, name)) for name in functions)
