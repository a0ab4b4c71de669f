"""For all unit tests."""

import pytest


@pytest.fixture(autouse=True)
def one_thread(request):
    """Tests of the compression compare numbers closely: one order of summation, and no fight for cores."""
    if not request.module.__name__.rpartition(".")[2].startswith("test_compression"):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
