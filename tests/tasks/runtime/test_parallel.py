"""`map_ahead`: order, bounds, the work of the thread that iterates, the place of errors."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.runtime.parallel import map_ahead


@pytest.mark.parametrize("items", [0, 1, 2, 50])
def test_results_are_in_order_and_the_bound_is_kept(items: int) -> None:
    taken = []
    source = (taken.append(i) or i for i in range(items))
    with ThreadPoolExecutor(2) as pool:
        for number, result in enumerate(map_ahead(pool, lambda i: i * i, source, ahead=3)):
            assert result == number**2
            assert len(taken) <= number + 1 + 3
    assert taken == list(range(items))


def test_the_thread_that_iterates_works_on_items_that_no_thread_has_started() -> None:
    held, threads = threading.Event(), []

    def work(item: int) -> int:
        threads.append(threading.current_thread())
        if item == 0:
            assert held.wait(30)
        elif item == 2:
            held.set()  # the first item ends only when another thread has done the third
        return item

    with ThreadPoolExecutor(1) as pool:
        assert list(map_ahead(pool, work, range(4), ahead=4)) == [0, 1, 2, 3]
    assert threading.current_thread() in threads


@pytest.mark.parametrize("bad", range(4))
def test_an_error_is_raised_in_the_place_of_its_item(bad: int) -> None:
    def work(item: int) -> int:
        if item == bad:
            raise ValueError(item)
        return item

    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(pool, work, range(5), ahead=5)
        assert [next(results) for _ in range(bad)] == list(range(bad))
        with pytest.raises(ValueError, match=f"^{bad}$"):
            next(results)
