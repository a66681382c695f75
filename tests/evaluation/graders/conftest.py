"""A judge, and the endpoint that it asks."""

import pytest
from evaluation.graders.judging import KEY, VARIABLES
from evaluation.graders.misbehaving_server import MisbehavingServer

from fedllm_app.evaluation.graders.judge import EndpointJudge, ReplyCache
from fedllm_app.evaluation.graders.judge_endpoint import Endpoint


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in (*VARIABLES, "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with MisbehavingServer() as running:
        yield running


@pytest.fixture
def judge(server, tmp_path):
    """A judge that waits for nothing; `waits` are the seconds that it would have waited."""

    def make(workers=1, url="", model="judge", timeout=5.0, key=KEY, **settings):
        waits = []
        endpoint = Endpoint(url or server.url, model, key, timeout, (1.0, 2.0), 60.0, sleep=waits.append)
        made = EndpointJudge(endpoint, ReplyCache(tmp_path / "cache" / "judge.jsonl"), workers, **settings)
        made.waits = waits
        return made

    return make
