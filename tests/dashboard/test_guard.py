"""Buttons that only our own page can press."""

from __future__ import annotations

import httpx
import pytest
from fastapi import APIRouter

from tests.dashboard.serve import app_over, served

router = APIRouter()


@router.post("/api/v1/press")
def press() -> dict[str, str]:
    return {"message": "pressed"}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    from tests.dashboard.synthetic import new_engine

    engine = new_engine(tmp_path_factory.mktemp("guard"))
    with served(app_over(engine, router)) as url:
        yield url
    engine.dispose()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"sec-fetch-site": "same-origin", "origin": "http://anything"},
        {"sec-fetch-site": "none"},
    ],
)
def test_scripts_and_our_own_page_may_act(url, headers):
    assert httpx.post(f"{url}/api/v1/press", headers=headers, trust_env=False).status_code == 200


def test_our_own_origin_may_act_in_a_browser_without_fetch_metadata(url):
    assert httpx.post(f"{url}/api/v1/press", headers={"origin": url}, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site", "content-type": "application/json"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "text/plain;charset=UTF-8"}, 415),
    ],
)
def test_other_sites_and_forms_may_not(url, headers, status):
    answer = httpx.post(f"{url}/api/v1/press", headers=headers, content=b"a=1", trust_env=False)
    assert answer.status_code == status
    assert answer.json()["detail"]
