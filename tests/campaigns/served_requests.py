"""Malformed and odd requests to MLflow's server of a registered model: each gets an answer or a client error.

`python -m tests.campaigns.served_requests --model DIRECTORY --requests 2000` plays them on a logged model. What has to
hold: the status is 2xx or 4xx, each answer has the label of the highest probability or an error, the model does not fail
unexpectedly, and no error of it shows a text.
"""

import argparse
import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import httpx

Post = Callable[[bytes, str], httpx.Response]
KINDS = ("application/json", "text/csv", "application/x-parquet", "text/plain", "application/json; charset=latin-1")
VALUES: tuple[Any, ...] = (
    *("a text", "", " ", "\x00", "\ud800", "x" * 5000, "7", "NaN", "日本語 \U0001f600"),
    *(
        None,
        7,
        -1,
        1.5,
        10**30,
        float("nan"),
        float("inf"),
        True,
        [],
        ["a"],
        [["a"], []],
        {},
        {"text": "a"},
        {"a": [1]},
    ),
)
NAMES = ("text", "id", "", "label", "text ", "0", "\x00", "a name with spaces", "\ud800")
PARAMS: tuple[Any, ...] = (
    *("top_k", "threshold", "explain", "on_error", "topk", ""),
    *("row", "request", 1, 0, -1, 2.5, True, None, [], {}),
)
SECRET = "orchid-4711"


def draw_body(draw: random.Random) -> tuple[bytes, str]:
    """Return the content of a request and its type."""
    kind = draw.choices(KINDS, [20, 4, 1, 1, 1])[0]
    if kind == "text/csv":
        lines = [",".join(str(draw.choice(VALUES)) for _ in range(draw.randint(0, 3))) for _ in range(4)]
        content = "\n".join([draw.choice(["text", "text,id", "id,other", "", SECRET]), *lines]).encode(
            "utf-8", "replace"
        )
    else:
        content = json.dumps(_draw_json(draw)).encode("utf-8", "replace")
    if draw.random() < 0.2:
        place = draw.randint(0, len(content))
        content = content[:place] + draw.choice([b"", b"\xff", b"{", b'"', b"\x00", b"[" * 50]) + content[place + 1 :]
    return content, kind


def _draw_json(draw: random.Random) -> Any:
    rows = draw.randint(0, 3)
    names = draw.choices(NAMES, [8, 3, 1, 1, 1, 1, 1, 1, 1], k=draw.randint(0, 3))
    texts = [draw.choice(VALUES) for _ in range(rows)]
    table = [[draw.choice(VALUES) for _ in range(draw.choice([len(names), len(names), 2]))] for _ in range(rows)]
    body: dict[str, Any] = draw.choice(
        [
            {"inputs": texts},
            {"inputs": [SECRET, *texts]},
            {"inputs": draw.choice(VALUES)},
            {"inputs": dict.fromkeys(names, texts)},
            {"inputs": {name: texts[: draw.randint(0, 3)] for name in names}},
            {"instances": texts},
            {"instances": [dict(zip(names, row, strict=False)) for row in table]},
            {"dataframe_split": {"columns": names, "data": table}},
            {"dataframe_split": {"data": table, "index": draw.choice([None, [0], ["a", "b"]])}},
            {"dataframe_split": draw.choice(VALUES)},
            {"dataframe_records": [dict(zip(names, row, strict=False)) for row in table]},
            {"dataframe_records": draw.choice(VALUES)},
            {"inputs": texts, "instances": texts},
            {"messages": texts},
            {"texts": texts},
        ]
    )
    if draw.random() < 0.4:
        given = {str(draw.choice(PARAMS[:6])): draw.choice(PARAMS[6:]) for _ in range(draw.randint(0, 3))}
        body["params"] = draw.choice([given, given, given, draw.choice(VALUES)])
    return draw.choice([body] * 12 + [draw.choice(VALUES)])


def play(post: Post, *, requests: int, seed: int) -> list[str]:
    """Return what went wrong, with the request that shows it.

    Args:
        post: sends a content with a type, and returns the response.
        requests: how many.
        seed: of the random requests.
    """
    draw, wrong = random.Random(seed), []
    for _ in range(requests):
        content, kind = draw_body(draw)
        response = post(content, kind)
        if not (200 <= response.status_code < 300 or 400 <= response.status_code < 500):
            wrong.append(f"status {response.status_code}: {kind} {content[:300]!r}: {response.text[:300]}")
        elif response.status_code == 200:
            body = response.json()
            answers = body["predictions"] if isinstance(body, dict) else body
            wrong += [f"{kind} {content[:300]!r}: {answer}" for answer in answers if not _is_answer(answer)]
        elif "unexpected error" in response.text:
            wrong.append(f"the model failed: {kind} {content[:300]!r}: {response.text[-500:]}")
        elif SECRET in response.text and _is_ours(response):
            wrong.append(f"shows a text: {kind} {content[:300]!r}: {response.text[:300]}")
    return wrong


def _is_answer(answer: dict[str, Any]) -> bool:
    """Return True for a label with its probability, the highest one, or an error without them."""
    if answer["label"] is None:
        return bool(answer["error"]) and answer["score"] is None
    return bool(answer["probabilities"][answer["label"]] == answer["score"] == max(answer["probabilities"].values()))


def _is_ours(response: httpx.Response) -> bool:
    """Return True for an error of the model, not of MLflow, which shows what it was sent."""
    return response.text.startswith("{") and response.json()["message"].startswith(("row ", "params: ", "expected "))


def main() -> None:
    """Play requests on a logged model from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="directory of a logged model, or its address in MLflow")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import mlflow
    from mlflow.pyfunc import scoring_server

    server = scoring_server.init(mlflow.pyfunc.load_model(options.model))

    async def send(content: bytes, kind: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=server, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
            return await client.post("/invocations", content=content, headers={"content-type": kind})

    with asyncio.Runner() as runner:
        wrong = play(lambda *sent: runner.run(send(*sent)), requests=options.requests, seed=options.seed)
    print("\n".join([*wrong[:20], f"{options.requests} requests from seed {options.seed}: {len(wrong)} wrong"]))
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
