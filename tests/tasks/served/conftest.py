"""What all tests of networks use."""

import pytest
import torch


@pytest.fixture
def seeded():
    """Torch's default generator with a fixed seed; its state is put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        yield
