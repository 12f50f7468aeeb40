"""Evidence in the browser: the page follows what is signed, and a proof is downloaded."""

from pathlib import Path

import pytest

from projections.evidence.formats.keys import parse_vkey
from projections.evidence.proofs.check import check_proof
from projections.evidence.signing.signing import create_key, sign_checkpoint
from tests.browser.console import console
from tests.browser.driver import Browser
from tests.browser.shown import Shown
from tests.harness.read_side import append, project
from tests.harness.signals import signals

pytestmark = pytest.mark.slow


def test_a_proof_is_downloaded_and_checks(shown: Shown) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(shown.address("/signals/SEQ"))
        seq = int(page.js("location.pathname.split('/').pop()"))
        answer = page.js(f"fetch('/api/proofs/{seq}').then((answer) => answer.text())")
        vkey = (shown.home / "evidence" / "vkey").read_text().strip()
        assert check_proof(answer.encode(), [parse_vkey(vkey)]).entry.seq == seq
        page.call("focus", "#save")
        page.press("Enter")
        page.wait("document.querySelector('#signed').textContent.includes('saved')")
        assert context.problems() == []


def test_the_page_follows_what_is_signed(browser: Browser, tmp_path: Path) -> None:
    home = tmp_path / "home"
    append(home, *signals(3))
    project(home)
    with console(home, "--no-login") as found, browser.context() as context:
        page = context.page()
        page.goto(f"{found.url}/evidence")
        assert "This log is not signed" in page.text()
        page.goto(f"{found.url}/signals/1")
        assert "Nothing of this log was signed yet" in page.text("#signed")
        page.goto(f"{found.url}/evidence")
        create_key(home, "log.example.com/main")
        sign_checkpoint(home)
        page.wait("document.querySelector('#checkpoints tr[data-seq=\"3\"]')")
        assert page.figures()["evidence.size"] == 3
        append(home, *signals(1, start=4))
        project(home)
        page.goto(f"{found.url}/signals/4")
        assert "No checkpoint covers this entry yet: the newest has 3 entries" in page.text(
            "#signed"
        )
        assert context.problems() == []
