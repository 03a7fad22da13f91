import threading

import pytest
import torch

from tasks.served.threads import SMALL, SmallRequests


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(("tokens", "expected"), [(1, 1), (SMALL - 1, 1), (SMALL, 3)])
def test_only_a_small_request_is_computed_with_fewer_threads(tokens, expected):
    assert SmallRequests(1).run(torch.get_num_threads, tokens=tokens) == expected


def test_torchs_threads_stay_what_they_were_for_all_others():
    requests = SmallRequests(2)
    for _ in range(3):
        assert requests.run(torch.get_num_threads, tokens=1) == 2
    assert torch.get_num_threads() == 3
    assert threads_of_a_new_thread() == 3


@pytest.mark.parametrize("threads", [3, 8])
def test_threads_are_never_added(threads):
    assert SmallRequests(threads).run(threading.get_ident, tokens=1) == threading.get_ident()


def test_an_error_of_the_work_is_raised():
    with pytest.raises(ZeroDivisionError):
        SmallRequests(1).run(lambda: 1 // 0, tokens=1)
