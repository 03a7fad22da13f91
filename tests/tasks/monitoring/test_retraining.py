"""When retraining is recommended."""

import pytest

from tasks.monitoring.retraining import recommend_retraining


@pytest.mark.parametrize(
    ("changed", "days", "labelled", "retrain", "reason"),
    [
        ([], 30, 500, False, "0 windows in a row changed; 2 would be"),
        ([True], 30, 500, False, "1 window in a row changed; 2 would be"),
        ([True, False], 30, 500, False, "0 windows in a row"),
        ([True, False, True], 30, 500, False, "1 window in a row"),
        ([False, True, True], 30, 500, True, "2 windows in a row changed, and 500 new labels arrived"),
        ([True, True, None], 30, 500, True, "2 windows in a row"),
        ([True, None, True], 30, 500, True, "2 windows in a row"),
        ([None, None], 30, 500, False, "0 windows in a row"),
        ([True, True], 6.9, 500, False, "is 6.9 days old; retraining is recommended after 7"),
        ([True, True], 7, 200, True, "200 new labels"),
        ([True, True, True], 30, 1, False, "3 windows in a row changed, but only 1 new label arrived; label 199 more"),
    ],
)
def test_two_windows_in_a_row_with_labels_and_after_a_while(changed, days, labelled, retrain, reason) -> None:
    found = recommend_retraining(
        changed, days=days, labelled=labelled, in_a_row=2, cool_down_days=7, fewest_labelled=200
    )
    assert found.retrain is retrain
    assert reason in found.reason
