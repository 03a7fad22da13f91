import logging

from tasks.training.history import History

STEP = {"step_loss": 0.51234, "learning_rate": 0.003, "gradient_norm": 1.25, "batch_padding_efficiency": 0.9}


def test_the_bar_shows_epoch_loss_rate_norm_padding_and_speed():
    history = History(epochs=[{}], tokens=120_000, seconds=2.0)
    assert history.describe_step(STEP, epochs=3) == {
        "epoch": "2/3",
        "loss": "0.512",
        "rate": "0.003",
        "norm": "1.2",
        "padding": "10%",
        "tokens/s": "60,000",
    }


def test_metrics_of_every_second_step_are_recorded_and_passed_on():
    passed_on = []
    history = History(tokens=10, seconds=2.0)
    for step in range(1, 5):
        history.step = step
        history.report_step(STEP, lambda metrics, at: passed_on.append((at, metrics["tokens_per_second"])), every=2)
    assert [entry["step"] for entry in history.steps] == [2, 4]
    assert passed_on == [(2, 5.0), (4, 5.0)]


def test_an_epoch_is_logged_and_passed_on_without_its_step(caplog):
    scores = {"train_loss": 0.5, "validation_loss": 0.4, "validation_accuracy": 0.9, "validation_macro_f1": 0.8}
    history, passed_on = History(epochs=[{"epoch": 1, "step": 7, **scores}], step=7, tokens=10, seconds=2.0), []
    with caplog.at_level(logging.INFO, "tasks.training.history"):
        history.report_epoch(lambda metrics, at: passed_on.append((at, metrics)), epochs=3)
    assert passed_on == [(7, {"epoch": 1, **scores, "tokens_per_second": 5.0})]
    assert caplog.messages[0].startswith("epoch 1 of 3: train loss 0.500, validation loss 0.400, accuracy 0.900")
