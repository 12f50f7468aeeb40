"""The page that checks a proof, opened from a file.

Invariant: it says PROVED for exactly the proofs that `evidence check` accepts.
"""

import base64
import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from projections.errors import NotProved
from projections.evidence.formats.checkpoint import SignedHead, sign_head
from projections.evidence.formats.keys import COSIGNER, SigningKey, new_key
from projections.evidence.formats.merkle import leaf_hash
from projections.evidence.formats.note import Signature
from projections.evidence.handover.export import SeenLines, index_page
from projections.evidence.handover.page import page_bytes
from projections.evidence.proofs.check import check_proof
from projections.evidence.proofs.proof import Proof
from tests.browser.driver import PHONE, Browser, Context, Page
from tests.harness.requirements import CHECKOUT
from tests.projections.evidence.entries import entry_proof
from tests.projections.evidence.foreign_lines import ACCEPTED, LOG, REFUSED, foreign_proof
from tests.projections.evidence.proofs.test_proof import KEY, WITNESS

pytestmark = pytest.mark.slow

LOG_VKEY = KEY.verifier.to_text()
RESULT = "document.querySelector('#result').dataset.state"
ANSWER = "document.querySelector('#result:not([hidden])')"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "verify.html"
    path.write_bytes(page_bytes())
    return path.as_uri()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[Context]:
    with browser.context() as found:
        yield found


@pytest.fixture
def page(context: Context, url: str) -> Page:
    found = context.page()
    found.goto(url)
    return found


def answer(page: Page, data: bytes, *keys: str) -> str:
    """What the page says about a pasted proof: its state and its text."""
    page.js("document.querySelector('#result').dataset.state = ''")
    page.call("fill", "#keys", "\n".join(keys))
    page.call("fill", "#proof", data.decode())
    page.call("click", "button")
    page.wait(f"{ANSWER} && {RESULT} !== ''")
    return f"{page.js(RESULT)}: {page.text('#result')}"


def test_a_good_proof_is_proved_with_its_line_and_times(page: Page, context: Context) -> None:
    found = answer(page, entry_proof().to_bytes(), LOG_VKEY, WITNESS.verifier.to_text())
    assert found.startswith("proved: PROVED: entry 257 of the log eventlog.example/vectors")
    assert "by the operator's own clock" in found
    assert "2025-11-29T10:40:00Z, seen by witness.example/vectors" in found
    assert entry_proof().line.decode() in page.text("#result pre")
    assert "none of the keys given is that of a witness" in answer(
        page, entry_proof().to_bytes(), LOG_VKEY
    )
    assert page.axe() == []
    page.call("setViewportSize", PHONE)
    assert page.js("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.axe() == []
    page.shot("verify")
    assert context.problems() == []
    assert all(each.startswith("file:") for each in context.requests())


CHECK = """async (proofs, keys) => {
    const found = [];
    for (const text of proofs) {
        const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
        const refused = (error) => error instanceof NotProved ? error.message : `failed: ${error}`;
        found.push(await check(bytes, keys).then(() => "proved", refused));
    }
    return found;
}"""


def checked(page: Page, proofs: list[bytes], keys: str) -> list[str]:
    """What the page says about each proof: "proved", or why not."""
    texts = [base64.b64encode(each).decode() for each in proofs]
    found: list[str] = page.js(f"({CHECK})({json.dumps(texts)}, {json.dumps(keys)})")
    return found


def test_no_changed_byte_is_proved(page: Page) -> None:
    data, chance = entry_proof().to_bytes(), random.Random(11)
    signed_to = data.rindex("\N{EM DASH}".encode())  # the witness is not among the keys
    changed = [
        data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        for at in range(signed_to)
    ]
    changed += [data[:at] + data[at + 1 :] for at in range(0, signed_to, 9)]
    assert [text for text in checked(page, changed, LOG_VKEY) if text == "proved"] == []
    assert checked(page, [data], LOG_VKEY) == ["proved"]


def test_it_judges_each_line_as_the_command_does(page: Page) -> None:
    lines = ACCEPTED | REFUSED
    proofs = [foreign_proof(line) for line in lines.values()]
    answers = checked(page, proofs, LOG.verifier.to_text())
    proved = {name for name, found in zip(lines, answers, strict=True) if found == "proved"}
    assert proved == set(ACCEPTED)
    assert [text for text in answers if "failed" in text] == []


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ((new_key("other.example").verifier.to_text(),), "the key of other.example"),
        ((new_key(KEY.name).verifier.to_text(),), "not signed by the key of the log"),
    ],
)
def test_other_keys_prove_nothing(page: Page, keys: tuple[str, ...], reason: str) -> None:
    found = answer(page, entry_proof().to_bytes(), *keys)
    assert found.startswith("refused: NOT PROVED")
    assert reason in found


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ((), "one key of a log is needed"),
        (("foo",), "a key does not have the form NAME+ID+KEY"),
        ((LOG_VKEY[:-2] + "A=",), "a key"),
        ((LOG_VKEY, LOG_VKEY), "one key of a log is needed, and 2 were given"),
        ((LOG_VKEY, *2 * (new_key("w", COSIGNER).verifier.to_text(),)), "a key was given twice"),
    ],
)
def test_mistyped_keys_accuse_nobody(page: Page, keys: tuple[str, ...], reason: str) -> None:
    found = answer(page, entry_proof().to_bytes(), *keys)
    assert found.startswith("unable: NOT CHECKEDLook at the keys that you gave: "), found
    assert reason in found


def test_white_space_around_a_pasted_proof_is_no_part_of_it(page: Page) -> None:
    assert answer(page, b"\n " + entry_proof().to_bytes() + b"\n \n", LOG_VKEY).startswith("proved")


def signed_line(line: bytes, name: str = "hostile.example") -> tuple[bytes, SigningKey]:
    """A proof of a log of one line."""
    key = new_key(name)
    head = SignedHead(origin=name, size=1, root=leaf_hash(line))
    signed = sign_head(head, key).to_bytes()
    return Proof(line=line, index=0, path=(), checkpoint=signed).to_bytes(), key


def test_hostile_text_in_a_line_is_shown_as_text(page: Page, context: Context) -> None:
    before = len(context.problems())
    start = b'{"v":1,"seq":1,"batch":1,"recorded_at":"2025-11-18T02:00:01.123456Z","event":"signal"'
    text = "<img src=x onerror=alert(1)><script>alert(2)</script>\N{RIGHT-TO-LEFT OVERRIDE}x"
    end = b',"chain":"%b"}' % (b"0" * 64)
    data, key = signed_line(start + f',"symbol":"{text}"'.encode() + end, "<b>bold</b>")
    found = answer(page, data, key.verifier.to_text())
    assert found.startswith("proved")
    assert "<img src=x onerror=alert(1)><script>alert(2)</script>\\u{202e}x" in found
    assert (
        page.js("document.querySelectorAll('#result img, #result script, #result b').length") == 0
    )
    assert context.problems()[before:] == []  # a dialog would be one
    other, key = signed_line(start.replace(b'"seq":1', b'"seq":2') + end, "log.example")
    assert "the line has seq 2, and is leaf 1" in answer(page, other, key.verifier.to_text())
    none, key = signed_line(b"{}", "log.example")
    assert "not an entry of a log" in answer(page, none, key.verifier.to_text())


def test_it_judges_names_and_times_of_witnesses_as_the_command_does(page: Page) -> None:
    own = SigningKey(name="w", kind=COSIGNER, seed=LOG.seed)
    witness = SigningKey(name="w", kind=COSIGNER, seed=bytes(32))
    renamed = SigningKey(name="v\u200b\U0001fae9" + "x" * 300, kind=COSIGNER, seed=bytes(32))
    for witnesses, time_s in (
        ((witness,), 1),
        ((renamed,), 1),
        ((), 1),
        ((witness,), 0),
        ((witness, renamed), 1),
        ((own,), 1),
    ):
        keys = [LOG.verifier, *(each.verifier for each in witnesses)]
        data = foreign_proof(witnesses=tuple((each, time_s) for each in witnesses))
        # Lines of strangers, whose names other tables of Unicode may not know.
        for name in (
            "\U0001fae9",
            "\u0378",
            "\ue000",
            "w" * 300,
            "a\x7f",
            "\ufeff",
            "a\x85b",
            "a\u2003b",
        ):
            stranger = Signature(name=name, id=b"1234", value=b"5").to_text().encode()
            try:
                check_proof(data + stranger, keys)
                wanted = True
            except NotProved:
                wanted = False
            (found,) = checked(page, [data + stranger], "\n".join(key.to_text() for key in keys))
            assert (found == "proved", "failed" in found) == (wanted, False), (name, found)


def test_no_answer_stands_beside_another_proof_or_other_keys(page: Page) -> None:
    data = entry_proof().to_bytes()
    for change in ("#keys", "#proof"):
        assert answer(page, data, LOG_VKEY).startswith("proved")
        page.call("fill", change, "x")
        assert page.js(f"{ANSWER} === null")
    assert answer(page, data, LOG_VKEY).startswith("proved")
    script = """() => {
        const file = new File(["x"], "gone");
        file.arrayBuffer = () => Promise.reject(new DOMException("gone", "NotFoundError"));
        take(file);
    }"""
    page.js(f"({script})()")
    page.wait(f"{RESULT} === 'unable' && {ANSWER}")
    assert "cannot be read" in page.text("#result")
    page.call("click", "button")  # what was checked before is not checked again
    page.wait(f"{RESULT} === 'refused'")


def test_a_file_is_chosen_or_dropped(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "257.tlog-proof"
    file.write_bytes(entry_proof().to_bytes())
    page.call("fill", "#keys", LOG_VKEY)
    page.call("setInputFiles", "#file", str(file))
    page.wait(f"{RESULT} === 'proved'")
    # A dropped file with Windows newlines: its bytes are checked as they are.
    text = entry_proof().to_bytes().decode().replace("\n", "\r\n")
    script = """(text) => {
        const data = new DataTransfer();
        data.items.add(new File([text], "dropped"));
        document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
    }"""
    page.js(f"({script})({json.dumps(text)})")
    page.wait(f"{RESULT} === 'refused'")
    found = answer(page, entry_proof().to_bytes().removesuffix(b"\n"), LOG_VKEY)
    assert found.startswith("proved")  # a pasted text may have lost its last newline


def test_a_browser_without_ed25519_says_so(context: Context, url: str) -> None:
    page = context.page()
    page.call(
        "addInitScript",
        """crypto.subtle.importKey = async () => {
            throw new DOMException("no", "NotSupportedError");
        };""",
    )
    page.goto(url)
    found = answer(page, entry_proof().to_bytes(), LOG_VKEY)
    assert found.startswith("unable: NOT CHECKED")
    assert "cannot check Ed25519" in found


@pytest.mark.parametrize(
    ("name", "parts"), [("verify", ("script", "style")), ("index", ("style",))]
)
def test_the_policy_allows_the_own_script_and_style_and_nothing_else(
    name: str, parts: tuple[str, ...]
) -> None:
    text = (CHECKOUT / f"projections/evidence/handover/{name}.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for part in parts:
        (content,) = re.findall(rf"<{part}>(.*?)</{part}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{part}-src 'sha256-{digest}'" in policy, f"write sha256-{digest} into the policy"
    assert not re.search(r"https?://|src=|href=(?!\"[A-Za-z0-9]+(\.[a-z]+)?\")", text)


def test_the_index_page_of_an_export_can_be_read_by_all(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_bytes(index_page(KEY.verifier, 300, SeenLines(signals=200), ["<tr><td>1</td></tr>"]))
    with browser.context(viewport=PHONE) as context:
        page = context.page()
        page.call("goto", path.as_uri())
        assert page.js("document.documentElement.scrollWidth") == PHONE["width"]
        assert page.axe() == []
        page.shot("export")
        assert context.problems() == []
