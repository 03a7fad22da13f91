"""Pooling over real positions, by hand."""

import torch

from tasks.served.pooling import pool_max, pool_mean, real_positions, weighted_sum

VALUES = torch.tensor([[[1.0, -5.0], [3.0, -1.0], [100.0, 100.0]], [[2.0, -2.0], [100.0, 100.0], [100.0, 100.0]]])
LENGTHS = torch.tensor([2, 1])


def test_real_positions_by_hand():
    assert real_positions(torch.tensor([2, 0, 3]), 3).tolist() == [
        [True, True, False],
        [False, False, False],
        [True, True, True],
    ]


def test_the_mean_is_over_real_positions():
    assert pool_mean(VALUES, LENGTHS).tolist() == [[2.0, -3.0], [2.0, -2.0]]


def test_the_maximum_is_over_real_positions():
    assert pool_max(VALUES, LENGTHS).tolist() == [[3.0, -1.0], [2.0, -2.0]]


def test_a_weighted_sum_is_over_all_positions():
    weights = torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.0, 0.01]])
    assert weighted_sum(VALUES, weights).tolist() == [[7.0, -7.0], [2.0, 0.0]]
