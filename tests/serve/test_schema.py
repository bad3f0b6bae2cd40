"""The API against its OpenAPI schema, with allowed and forbidden requests from schemathesis."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
import torch
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance

from cap2im.serve.settings import ServeSettings
from tests.serve.conftest import CAPTION, served

LIMITS = {"captions": 2, "samples": 3, "characters": 60, "api_key": "open-sesame"}
KEY = {"Authorization": "Bearer open-sesame"}
BOUNDED = hypothesis.settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)


@pytest.fixture(scope="module")
def api(tiny):
    """The schema of a running server."""
    torch.set_flush_denormal(False)  # which training in this process may have set: hypothesis refuses to make floats then
    with served(ServeSettings.of({"models": (str(tiny),), **LIMITS})) as client:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{client.port}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_route_matches_its_schema(api, mode):
    asked = 0
    for operation in (result.ok() for result in api.get_all_operations()):
        if mode is GenerationMode.NEGATIVE and operation.body.items == []:
            continue  # without a body there is nothing to get wrong

        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        @BOUNDED
        def ask(case):
            nonlocal asked
            asked += 1
            # no schema can say which words and names a model knows
            case.call_and_validate(headers=KEY, excluded_checks=[positive_data_acceptance], timeout=20)

        ask()
    assert asked > 60


def test_allowed_requests_are_drawn(api):
    drawn = []

    @hypothesis.given(case=api["/v1/draw"]["POST"].as_strategy())
    @hypothesis.settings(BOUNDED, max_examples=15)
    def ask(case):
        case.body["captions"] = [CAPTION] * len(case.body["captions"])
        case.body["model"] = None
        response = case.call(headers=KEY, timeout=20)
        case.validate_response(response, headers=KEY)
        drawn.append(response.status_code)

    ask()
    assert len(drawn) > 10
    assert set(drawn) == {200}


def test_schema_describes_every_route_and_limit(api):
    routes = {f"{operation.ok().method.upper()} {operation.ok().path}" for operation in api.get_all_operations()}
    assert routes >= {
        "POST /v1/draw",
        "POST /v1/draw/stream",
        "POST /v1/read",
        "GET /v1/models",
        "GET /v1/models/{name}/words",
        "GET /healthz",
        "GET /readyz",
        "POST /api/v1.0/bird",
        "POST /api/v1.0/birds",
    }
    captions = api.raw_schema["components"]["schemas"]["DrawRequest"]["properties"]["captions"]
    assert (captions["maxItems"], captions["items"]["maxLength"]) == (2, 60)


def test_every_request_example_is_valid(api):
    bodies = 0
    for path, methods in api.raw_schema["paths"].items():
        if "requestBody" not in methods.get("post", {}):
            continue
        (content,) = methods["post"]["requestBody"]["content"].values()
        schema = api.raw_schema["components"]["schemas"][content["schema"]["$ref"].rsplit("/", 1)[1]]
        for example in schema["examples"]:
            bodies += 1
            answer = api[path]["POST"].Case(media_type="application/json", body=example).call(headers=KEY, timeout=60)
            assert answer.status_code in (200, 201), (path, answer.text)
    assert bodies == 5


def test_the_documentation_asks_for_the_key_where_it_is_needed(api):
    """Swagger shows its Authorize button for them."""
    assert api.raw_schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    keyed = {path for path, methods in api.raw_schema["paths"].items() if any(each.get("security") for each in methods.values())}
    assert keyed == {"/v1/draw", "/v1/draw/stream", "/api/v1.0/bird", "/api/v1.0/birds"}
