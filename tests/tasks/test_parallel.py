from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.parallel import map_ahead


@pytest.mark.parametrize("items", [0, 1, 2, 50])
def test_work_ahead_keeps_its_order_and_its_bounds(items: int) -> None:
    taken = []
    source = (taken.append(i) or i for i in range(items))
    with ThreadPoolExecutor(2) as pool:
        for number, result in enumerate(map_ahead(pool, lambda i: i * i, source, ahead=3)):
            assert result == number**2
            assert len(taken) <= number + 1 + 3
    assert taken == list(range(items))
