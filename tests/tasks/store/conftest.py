"""The pair of JSON files, committed."""

import pytest

from tasks.store.artifacts import ArtifactRef
from tasks.store.commit import commit_output
from tests.tasks.store.pair import KEY, STAGE, write_pair


@pytest.fixture
def stored(artifacts) -> ArtifactRef:
    """The pair, committed."""
    return commit_output(STAGE, KEY, write_pair)[0]
