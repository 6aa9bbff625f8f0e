"""A private Ray session that the tests of a file share."""

from collections.abc import Iterator

import pytest

from cfmimo.runtime.session import connected


@pytest.fixture(scope="module")
def session() -> Iterator[str]:
    with connected(None, num_aps=8) as fork_folder:
        yield fork_folder
