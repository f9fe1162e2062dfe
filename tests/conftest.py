"""What holds for all tests."""

from typing import Iterator

import pytest
import torch

from sammo.encoder.ssd import untuned


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True)
def quick_start_on_a_gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """Which configuration of a kernel is the fastest takes longer to find than these tests take."""
    if request.node.get_closest_marker("gpu") is None:
        yield
        return
    with untuned():
        yield
