"""A model as judge, asked over HTTP on this computer: swapped sides, verdicts, agreement, and a key that stays where it is."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.trainer_core.jobs.test_blind_voting import ask, contest, supervisor  # noqa: F401  (fixtures)
from trainer_core.errors import ConfigError
from trainer_core.evaluation import judge, votes
from trainer_core.evaluation.judge import JudgeCase, JudgeTask, JudgeVerdict
from trainer_core.evaluation.judge_endpoint import AskJudge, JudgeEndpoint, JudgeError, make_ask_function
from trainer_core.evaluation.votes import LanePair
from trainer_core.jobs import blind_voting
from trainer_core.jobs.judging import JudgeRun
from trainer_core.jobs.supervisor import wait_for
from trainer_core.runs.compare_requests import ChatMessage
from trainer_core.schema import parse_values
from trainer_core.texts import Text

CONTEST = LanePair(run="r1", first="Base", second="DPO")
CASE = JudgeCase(CONTEST, (ChatMessage(role="user", content="Why?"),), "Long and dull.", "Short and sweet!")


class Judge:
    """An endpoint that answers what it is told to, and remembers what it was sent."""

    def __init__(self, answer: Callable[[str], str], status: int = 200):
        self.heard: list[tuple[str, str, dict]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                self.heard.append((handler.path, handler.headers.get("Authorization", ""), body))
                said = answer(body["messages"][-1]["content"])
                told = json.dumps({"choices": [{"message": {"content": said}}]}) if said != "broken" else "{}"
                handler.send_response(status)
                handler.end_headers()
                handler.wfile.write(told.encode())

            def log_message(handler, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> JudgeEndpoint:
        return JudgeEndpoint(
            url=f"http://127.0.0.1:{self.server.server_port}/v1/", model="judge-1", variable="TEST_API_KEY"
        )

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def open_judge() -> Iterator[Callable[..., Judge]]:
    opened: list[Judge] = []

    def start(answer: Callable[[str], str], status: int = 200) -> Judge:
        opened.append(Judge(answer, status))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def likes(words: str) -> Callable[[str], str]:
    """A judge that prefers the answer with these words in it, wherever it stands."""

    def answer(asked: str) -> str:
        a, b = asked.split("<A>")[1].split("</A>")[0], asked.split("<B>")[1].split("</B>")[0]
        return "tie" if (words in a) == (words in b) else "**A**" if words in a else "Verdict: B"

    return answer


def verdict(one: Judge, case: JudgeCase = CASE) -> JudgeVerdict:
    with httpx.Client(trust_env=False) as client:
        return judge.judge_case(case, make_ask_function(one.endpoint, client), "judge-1")


KEY = "sk-canary-0123456789"


@pytest.mark.parametrize("around", ["{}\r\n", "\n{}", " {}\t", "{}\r"])
def test_what_a_file_leaves_around_a_key_is_not_sent(open_judge, monkeypatch, around: str) -> None:
    monkeypatch.setenv("TEST_API_KEY", around.format(KEY))
    one = open_judge(likes("sweet"))
    verdict(one)
    assert {sent for _, sent, _ in one.heard} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("inner", ["\r\nX-Other: 1", "\x01", "\x1b[2J", "ü", "\u2028", "\x7f", " ", "\udcff"])
def test_a_key_that_no_header_can_hold_is_refused_by_its_name(monkeypatch, inner: str) -> None:
    monkeypatch.setenv("TEST_API_KEY", f"{KEY[:9]}{inner}{KEY[9:]}")
    endpoint = JudgeEndpoint(url="http://127.0.0.1:9/v1", model="m", variable="TEST_API_KEY")
    with httpx.Client() as client, pytest.raises(ConfigError) as refused:
        make_ask_function(endpoint, client)
    assert refused.value.text == Text("judge.bad_key", variable="TEST_API_KEY", at=10, length=len(KEY) + len(inner))
    assert "canary" not in str(refused.value) and "6789" not in str(refused.value)


def test_a_judge_that_says_the_key_does_not_bring_it_onto_the_page(open_judge, monkeypatch) -> None:
    monkeypatch.setenv("TEST_API_KEY", KEY)
    with pytest.raises(JudgeError) as said:
        verdict(open_judge(lambda _: f"Incorrect key: {KEY}"))
    assert "canary" not in str(said.value) and "Incorrect key" in str(said.value)


def test_it_is_asked_twice_with_the_sides_swapped(open_judge) -> None:
    one = open_judge(likes("sweet"))
    found = verdict(one)
    assert found.words == ("B", "A") and found.winner == "DPO" and not found.position_biased
    asked = [body["messages"][0]["content"] for _, _, body in one.heard]
    assert [text.index("dull") < text.index("sweet") for text in asked] == [True, False]
    assert [path for path, _, _ in one.heard] == ["/v1/chat/completions"] * 2
    assert one.heard[0][2]["model"] == "judge-1" and one.heard[0][2]["temperature"] == 0


def test_who_always_says_a_is_torn_and_decides_nothing(open_judge) -> None:
    found = verdict(open_judge(lambda asked: "A"))
    assert found.position_biased and found.winner is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [("A", "A"), (" b.", "B"), ("**Tie**", "tie"), ("Verdict: B", "B"), ("The better answer is A", "A"), ("A is better.", "A"),
     ("A note on the kettle helps.", None), ("I cannot say", None), ("", None)],
)  # fmt: skip
def test_only_a_verdict_is_a_verdict(text: str, meant: str | None) -> None:
    if meant:
        assert judge.parse_verdict(text) == meant
        return
    with pytest.raises(JudgeError) as refused:
        judge.parse_verdict(text)
    assert refused.value.text == Text("judge.no_verdict", answer=text)


def test_the_key_comes_from_the_environment_and_goes_to_the_endpoint_alone(open_judge, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TEST_API_KEY", "sk-secret-42")
    one = open_judge(likes("sweet"))
    found = verdict(one)
    assert one.heard[0][1] == "Bearer sk-secret-42"
    assert "sk-secret" not in found.model_dump_json() + one.endpoint.model_dump_json() + json.dumps(one.heard[0][2])
    monkeypatch.delenv("TEST_API_KEY")
    verdict(one)
    assert one.heard[-1][1] == ""


def test_what_is_wrong_with_a_judge_is_said(open_judge) -> None:
    gone = open_judge(lambda asked: "A")
    gone.close()
    cases: tuple[tuple[str, dict, Callable[[], object]], ...] = (
        (
            "judge.key_refused",
            {"status": 401, "variable": "TEST_API_KEY"},
            lambda: verdict(open_judge(lambda asked: "A", status=401)),
        ),
        ("judge.no_completion", {}, lambda: verdict(open_judge(lambda asked: "broken"))),
        ("judge.silent", {}, lambda: verdict(gone)),
        ("judge.bad_url", {"url": "ftp://x"}, lambda: JudgeEndpoint(url="ftp://x", model="m").completions_url),
        ("judge.no_model", {}, lambda: JudgeEndpoint(url="http://x/v1").completions_url),
    )
    for code, facts, do in cases:
        with pytest.raises((JudgeError, ConfigError)) as refused:
            do()
        assert refused.value.text.code == code and facts.items() <= refused.value.text.params.items()


def test_a_trial_judges_what_was_voted_on_first_and_says_how_often_both_agree(supervisor, contest, open_judge) -> None:  # noqa: F811
    for choice in ("dpo", "base"):
        question = ask(supervisor, contest)
        wanted = "DPO" if choice == "dpo" else "Base"
        blind_voting.cast_vote(supervisor.registry, "left" if question.left_lane == wanted else "right")
    blind_voting.end_voting(supervisor.registry)
    before = Path(votes.votes_path(supervisor.workspace)).read_bytes()
    one = open_judge(likes("Tie it"))
    order = JudgeTask(contest=contest, endpoint=one.endpoint, cases=5)
    trial = JudgeRun(supervisor.registry, supervisor.registry.comparison, order).start()
    assert wait_for(lambda: trial.state.over, 60, 0.05) and not trial.state.problem, trial.state
    assert trial.state.done == 5 and len(one.heard) == 10
    given = votes.active_votes(votes.read_vote_records(votes.votes_path(supervisor.workspace)))
    (opinion,) = judge.summarise_judges(judge.read_verdicts(supervisor.workspace, contest), given)
    assert (opinion.first, opinion.second, opinion.torn) == (0, 5, 0)
    assert (opinion.agreed, opinion.of_both) == (1, 2)
    assert Path(votes.votes_path(supervisor.workspace)).read_bytes() == before, "never mixed into a person's votes"


def test_a_lane_may_judge_and_one_that_cannot_is_told(supervisor, contest) -> None:  # noqa: F811
    comparison = supervisor.compare.compare_run(contest.run)
    assert wait_for(lambda: supervisor.registry.refresh() or bool(comparison.state.lanes), 30, 0.02)
    trial = JudgeRun(supervisor.registry, comparison, JudgeTask(contest=contest, lane="SFT", cases=2)).start()
    assert wait_for(lambda: trial.state.over, 60, 0.05)
    assert (
        trial.state.done == 0
        and "instead of A, B or tie. Choose a model that follows instructions." in trial.state.problem
    )


def test_a_trial_ends_when_it_is_stopped(supervisor, contest, open_judge) -> None:  # noqa: F811
    comparison = supervisor.compare.compare_run(contest.run)
    trial = JudgeRun(
        supervisor.registry, comparison, JudgeTask(contest=contest, endpoint=open_judge(likes("x")).endpoint)
    ).start()
    trial.stop()
    assert wait_for(lambda: trial.state.over, 20, 0.05)
    assert "Judging was stopped" in trial.state.problem


def test_an_error_nobody_expected_is_said_and_kept(supervisor, contest, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """It must not look like the end of a trial that found nothing."""

    def make_ask(endpoint: JudgeEndpoint, client: httpx.Client) -> AskJudge:
        raise ZeroDivisionError("of a judge")

    comparison = supervisor.compare.compare_run(contest.run)
    order = JudgeTask(contest=contest, endpoint=JudgeEndpoint(url="http://127.0.0.1:9", model="x"))
    trial = JudgeRun(supervisor.registry, comparison, order, make_ask).start()
    assert wait_for(lambda: trial.state.over, 20, 0.05)
    assert trial.state.problem == str(Text("judging.unexpected", error="ZeroDivisionError: of a judge"))
    assert "in make_ask\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "TUNEBENCH_PASSWORD", "HOME", "AWS_SECRET_ACCESS_KEY", ""]
)
def test_no_other_variable_is_sent_to_a_judge(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the variable with a judge's key. Its name must end in API_KEY"):
        parse_values(JudgeEndpoint, {"url": "http://evil.example", "model": "m", "variable": name}, "")
    assert JudgeEndpoint(variable="TUNEBENCH_JUDGE_KEY").variable


def write_endlessly(write: Callable[[bytes], object]) -> None:
    while True:
        write(b" " * 65_536)


def drip_bytes(write: Callable[[bytes], object]) -> None:
    for _ in range(600):
        write(b" ")
        time.sleep(0.05)


RAW_ANSWERS: dict[str, tuple[dict[str, str], Callable[[Callable[[bytes], object]], object], str]] = {
    "endless": ({}, write_endlessly, "judge.too_long"),
    "a byte now and then": ({}, drip_bytes, "judge.too_slow"),
    "packed": ({"Content-Encoding": "gzip"}, lambda write: write(gzip.compress(b" " * (64 << 20))), "judge.packed"),
    "nested deep": ({}, lambda write: write(b"[" * 100_000), "judge.silent"),
    "not UTF-8": ({}, lambda write: write(b"\xff\xfe"), "judge.silent"),
    "nothing": ({}, lambda write: None, "judge.silent"),
}


@pytest.mark.parametrize("name", RAW_ANSWERS)
def test_an_endpoint_cannot_take_memory_or_time(name: str) -> None:
    headers, write, code = RAW_ANSWERS[name]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            for header in headers.items():
                self.send_header(*header)
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has hung up
                write(self.wfile.write)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, httpx.Client() as client:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = JudgeEndpoint(url=f"http://127.0.0.1:{server.server_port}/v1", model="m", variable="TEST_API_KEY")
        with pytest.raises(JudgeError) as refused:
            make_ask_function(endpoint, client, seconds=1.0)((ChatMessage(role="user", content="?"),))
        assert refused.value.text.code == code
        server.shutdown()


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    endpoint = JudgeEndpoint(url="https://me:hunter2@example.com/v1", model="m", variable="TEST_API_KEY")
    with pytest.raises(ConfigError) as refused:
        _ = endpoint.completions_url
    assert refused.value.text.code == "judge.url_with_password" and "hunter2" not in str(refused.value)
