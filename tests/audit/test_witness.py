"""What the analyst's side notices: a log that was rewritten, shortened or forked; and what it must
not take for that: replies out of order, several kernels, an answer that is looked at again."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from audited_site import ANA, BOB, OWNER, SITE, AuditedSite
from hypothesis import given, settings
from hypothesis import strategies as st

from privnb.errors import AuditBroken, StateError, UnknownName
from privnb.witness import Witness, size_of

OUTPUT = "0" * 64


def sizes(notes) -> tuple[int, ...]:
    """Return what goes into a submission of the checkpoints that are held."""
    return tuple(map(size_of, notes))


class Analyst:
    """Asks and checks as a session does."""

    def __init__(self, home: Path, site: AuditedSite) -> None:
        self.home = home
        self.site = site
        self.witness = Witness(home)
        self.witness.pin(OWNER, site.log.verifier_key)

    def ask(self) -> tuple[str, ...]:
        """Send a request; what remains of it are the checkpoints that were held."""
        return self.witness.held(OWNER)

    def check(self, receipt, held=(), *, output=OUTPUT) -> None:
        says = {"output": output}
        self.witness.check(OWNER, SITE, receipt, analyst=ANA, says=says, held=held)

    def round(self, *, site=None, more=0) -> None:
        """Ask, have it answered, check."""
        held = self.ask()
        self.check((site or self.site).release(held=sizes(held), more=more), held)

    def evidence(self) -> list[Path]:
        """What was kept of logs that do not hold."""
        return list((self.home / "audit" / "evidence").glob("*"))


@pytest.fixture
def ana(log, tmp_path):
    return Analyst(tmp_path / "home", log)


def checkpoint_sizes(ana):
    memory = json.loads((ana.home / "audit" / f"{OWNER}.json").read_bytes())
    notes = [note for note in (memory["head"], *memory["loose"]) if note]
    return [int(note.split("\n")[1]) for note in notes]


# What holds


def test_answer_after_answer_one_checkpoint_is_kept(ana):
    for _ in range(5):
        ana.round(more=3)
    assert sizes(ana.ask()) == (20,)
    assert checkpoint_sizes(ana) == [20]
    assert ana.evidence() == []


def test_what_it_keeps_is_its_owners_alone(ana):
    ana.round()
    path = ana.home / "audit" / f"{OWNER}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_kernel_started_later_goes_on_from_the_same_checkpoint(ana):
    ana.round()
    again = Witness(ana.home)
    assert sizes(again.held(OWNER)) == (1,)
    assert again.key(OWNER) == ana.site.log.verifier_key
    assert again.key("other@north.example") is None
    assert again.held("other@north.example") == ()


def test_replies_out_of_order_are_believed_and_linked_by_the_next_answers(ana):
    ana.round()
    asked = [ana.ask() for _ in range(6)]
    replies = [(ana.site.release(held=sizes(held), more=1), held) for held in asked]
    for receipt, held in reversed(replies):
        ana.check(receipt, held)
    assert len(checkpoint_sizes(ana)) == 6
    assert len(ana.ask()) == 6
    ana.round()
    assert checkpoint_sizes(ana) == [14]


def test_more_unlinked_checkpoints_than_a_submission_names_are_linked_bit_by_bit(ana):
    held = ana.ask()
    for _ in range(40):
        ana.check(ana.site.release(held=sizes(held)), held)
    assert len(checkpoint_sizes(ana)) == 40
    rounds = 0
    while len(checkpoint_sizes(ana)) > 1:
        assert len(ana.ask()) <= 16
        assert max(checkpoint_sizes(ana)) in sizes(ana.ask())
        ana.round()
        rounds += 1
    assert rounds < 5


def test_an_answer_may_be_checked_again_long_after(ana):
    held = ana.ask()
    first = ana.site.release(held=sizes(held))
    ana.check(first, held)
    for _ in range(3):
        ana.round()
    ana.check(first, held)
    ana.check(first, ())
    ana.round()
    assert checkpoint_sizes(ana) == [5]


def test_a_proof_from_a_checkpoint_that_was_forgotten_meanwhile_is_not_missed(ana):
    ana.round()
    slow = ana.ask()
    late = ana.site.release(held=sizes(slow))
    ana.round()
    ana.round()
    later = ana.site.release(held=sizes(slow))
    ana.check(later, slow)
    ana.check(late, slow)
    ana.round()
    assert checkpoint_sizes(ana) == [6]


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False))
def test_an_honest_site_is_never_accused(tmp_path_factory, rng: random.Random):
    folder = tmp_path_factory.mktemp("honest")
    site = AuditedSite(folder / "site")
    kernels = [Analyst(folder / "home", site) for _ in range(2)]
    asked, replied = [], []
    for _ in range(25):
        step = rng.randrange(3)
        if step == 0:
            asked.append(rng.choice(kernels).ask())
        elif step == 1 and asked:
            held = asked.pop(rng.randrange(len(asked)))
            replied.append((site.release(held=sizes(held), more=rng.randrange(3)), held))
        elif replied:
            receipt, held = rng.choice(replied)
            rng.choice(kernels).check(receipt, rng.choice([held, held, ()]))
    for _ in range(4):
        kernels[0].round()
    assert len(checkpoint_sizes(kernels[0])) == 1
    site.database.close()


def test_kernels_at_once_lose_no_checkpoint(ana, tmp_path):
    held = ana.ask()
    replies = [ana.site.release(held=sizes(held)) for _ in range(30)]
    files = []
    for place in range(3):
        file = tmp_path / f"replies-{place}.json"
        file.write_text(json.dumps([dataclasses.asdict(each) for each in replies[place::3]]))
        files.append(file)
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom privnb.release import Receipt, Opening\n"
        "from privnb.witness import Witness\nwitness = Witness(Path(sys.argv[1]))\n"
        "replies = json.loads(Path(sys.argv[2]).read_text())\ninput()\n"
        "for each in replies:\n"
        "    each['openings'] = {k: Opening(**v) for k, v in each['openings'].items()}\n"
        f"    witness.check({OWNER!r}, 'northside', Receipt(**each), analyst={ANA!r},"
        f" says={{'output': {OUTPUT!r}}})\n"
    )
    kernels = [
        subprocess.Popen(
            [sys.executable, "-c", code, ana.home, file], stdin=subprocess.PIPE, text=True
        )
        for file in files
    ]
    for each in kernels:
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in kernels:
        each.communicate()
    assert [each.returncode for each in kernels] == [0, 0, 0]
    assert sorted(checkpoint_sizes(ana)) == list(range(1, 31))


# What does not hold


def kept(ana, broken) -> dict:
    """Return the evidence that an error names."""
    name = broken.message.rpartition("/")[2].removesuffix(".")
    return json.loads((ana.home / "audit" / "evidence" / name).read_bytes())


def refused(ana, receipt, held=(), *, match, **fields) -> dict:
    """Have a receipt refused; return the evidence, which the error names."""
    before = checkpoint_sizes(ana) if ana.witness.held(OWNER) else []
    with pytest.raises(AuditBroken, match=match) as broken:
        ana.check(receipt, held, **fields)
    assert broken.value.code == "E_AUDIT"
    assert f"Tell {OWNER} and your auditor" in broken.value.hint
    evidence = kept(ana, broken.value)
    after = checkpoint_sizes(ana) if ana.witness.held(OWNER) else []
    assert after == before
    return evidence


def test_a_rewritten_log_is_noticed_and_the_evidence_kept(ana, tmp_path):
    for _ in range(4):
        ana.round(more=1)
    other = AuditedSite(tmp_path / "other")
    other.folder.joinpath("audit.key").write_bytes(
        ana.site.folder.joinpath("audit.key").read_bytes()
    )
    rewritten = AuditedSite(tmp_path / "other")
    rewritten.fill(9)
    held = ana.ask()
    receipt = rewritten.release(held=sizes(held))
    evidence = refused(ana, receipt, held, match="has rewritten its audit log")
    assert evidence["remembered"].split("\n")[1] == "8"
    assert evidence["received"][0]["checkpoint"] == receipt.checkpoint
    assert evidence["key"] == ana.site.log.verifier_key
    # It stays noticed, whatever is asked next.
    held = ana.ask()
    refused(ana, rewritten.release(held=sizes(held)), held, match="has rewritten")
    for site in (other, rewritten):
        site.database.close()


def test_one_changed_event_in_the_past_is_a_rewritten_log(ana):
    for _ in range(3):
        ana.round(more=2)
    ana.site.run(
        "UPDATE events SET body = replace(body, 'decision', 'decisioN') WHERE seq = 1",
        "DELETE FROM audit_nodes",
    )
    ana.site.make_nodes()
    held = ana.ask()
    refused(ana, ana.site.release(held=sizes(held)), held, match="has rewritten")


def test_a_shortened_log_is_noticed(ana, tmp_path):
    ana.round(more=2)
    earlier = ana.site.copy(tmp_path / "earlier")
    later = AuditedSite(ana.site.folder)
    ana.site = later
    ana.round(more=5)
    held = ana.ask()
    receipt = earlier.release(held=sizes(held))
    assert receipt.consistency is None
    refused(ana, receipt, held, match="shorter than the one it showed before")
    # And once it has grown again over what was seen.
    earlier.fill(20)
    held = ana.ask()
    refused(ana, earlier.release(held=sizes(held)), held, match="has rewritten")
    for site in (earlier, later):
        site.database.close()


def test_two_logs_of_one_size_are_noticed(ana, tmp_path):
    ana.round()
    fork = ana.site.copy(tmp_path / "fork")
    ana.site = AuditedSite(ana.site.folder)
    held = ana.ask()
    one, two = ana.site.release(held=sizes(held)), fork.release(held=sizes(held))
    ana.check(one, held)
    evidence = refused(ana, two, held, match="two audit logs that differ")
    assert evidence["remembered"] == one.checkpoint
    for site in (fork, ana.site):
        site.database.close()


def test_two_logs_shown_to_two_kernels_are_noticed_at_the_next_answer_of_either(ana, tmp_path):
    ana.round()
    fork = ana.site.copy(tmp_path / "fork")
    ana.site = AuditedSite(ana.site.folder)
    kernel = Analyst(ana.home, fork)
    held, theirs = ana.ask(), kernel.ask()
    ana.check(ana.site.release(held=sizes(held), more=1), held)
    kernel.check(fork.release(held=sizes(theirs), more=4), theirs)  # both are of the log they held
    for site, said in ((ana.site, "shorter"), (fork, "has rewritten")):
        held = ana.ask()
        assert sizes(held) == (3, 6)
        refused(ana, site.release(held=sizes(held)), held, match=said)
    for site in (fork, ana.site):
        site.database.close()


def test_a_fork_hidden_behind_answers_out_of_order_is_noticed(ana, tmp_path):
    ana.round()
    fork = ana.site.copy(tmp_path / "fork")
    ana.site = AuditedSite(ana.site.folder)
    slow = ana.ask()
    hidden = fork.release(held=sizes(slow))
    ana.round(more=4)
    ana.check(hidden, slow)  # smaller, of a request from before: it may be an honest straggler
    held = ana.ask()
    refused(ana, ana.site.release(held=sizes(held)), held, match="has rewritten")
    for site in (fork, ana.site):
        site.database.close()


def test_an_answer_must_prove_growth_from_what_it_was_sent_with_whatever_came_since(ana, tmp_path):
    ana.round(more=1)
    fork = ana.site.copy(tmp_path / "fork")
    ana.site = AuditedSite(ana.site.folder)
    fork.run(
        "UPDATE events SET body = replace(body, 'decision', 'decisioN') WHERE seq = 1",
        "DELETE FROM audit_nodes",
    )
    fork.make_nodes()
    slow = ana.ask()
    forked = fork.release(held=sizes(slow))
    ana.round(more=2)
    assert not set(slow) & set(ana.ask())
    refused(ana, forked, slow, match="has rewritten")
    refused(ana, fork.release(), slow, match="does not prove that its audit log is the one")
    for site in (fork, ana.site):
        site.database.close()


def test_a_receipt_is_linked_once_a_later_one_proves_that_it_is_of_the_same_log(ana):
    held = ana.ask()
    first, second = (ana.site.release(held=sizes(held)) for _ in range(2))
    ana.check(second, held)
    assert ana.witness.links(OWNER, second)
    ana.check(first, held)
    assert not ana.witness.links(OWNER, first)
    ana.round()
    assert ana.witness.links(OWNER, first)
    assert ana.witness.links(OWNER, second)


def test_a_missing_proof_is_as_good_as_a_wrong_one(ana):
    ana.round()
    held = ana.ask()
    receipt = ana.site.release()
    assert receipt.consistency is None
    refused(ana, receipt, held, match="does not prove that its audit log is the one")


def test_an_old_answer_to_another_question_is_refused(ana):
    held = ana.ask()
    old = ana.site.release("a" * 64, held=sizes(held))
    ana.check(old, held, output="a" * 64)
    refused(ana, old, ana.ask(), match="receipt of something else", output="b" * 64)


def test_an_old_receipt_even_of_the_same_output_shows_a_shorter_log(ana):
    held = ana.ask()
    old = ana.site.release(held=sizes(held))
    ana.check(old, held)
    ana.round()
    refused(ana, old, ana.ask(), match="shorter")


def test_an_event_that_is_no_release_proves_no_answer(ana):
    with ana.site.database.write() as transaction:
        from privnb.site.audit import record_event

        index = record_event(transaction, "failure", private={"analyst": ANA}, output=OUTPUT)
        receipt = ana.site.log.receipt(transaction, index)
    refused(ana, receipt, (), match="receipt of something else")


@pytest.mark.parametrize("field", ["purpose", "epsilon", "request"])
def test_an_event_that_says_something_else_of_the_release_proves_no_answer(ana, field):
    receipt = ana.site.release()
    with pytest.raises(AuditBroken, match=f"logged its answer with another {field}"):
        ana.witness.check(
            OWNER, SITE, receipt, analyst=ANA, says={"output": OUTPUT, field: "what was asked"}
        )


def test_an_event_about_another_analyst_or_about_nobody_proves_no_answer(ana):
    receipt = ana.site.release()
    for wrong, analyst in ((receipt, BOB), (dataclasses.replace(receipt, openings=None), ANA)):
        with pytest.raises(AuditBroken, match="logged its answer with another analyst"):
            ana.witness.check(OWNER, SITE, wrong, analyst=analyst, says={"output": OUTPUT})


def test_an_answer_without_a_receipt_is_refused(ana):
    refused(ana, None, (), match="without a receipt")


def test_a_receipt_that_does_not_verify_is_refused_in_constant_words(ana):
    receipt = ana.site.release()
    said = set()
    for change in (
        {"index": 7},
        {"event": receipt.event.replace("release", "Release")},
        {"checkpoint": receipt.checkpoint.replace("\n1\n", "\n2\n")},
        {"checkpoint": "\x1b[2J"},
        {"proof": ("no hash",)},
    ):
        evidence = refused(ana, dataclasses.replace(receipt, **change), (), match="does not prove")
        said.add(evidence["what"])
    assert len(said) == 1


def test_another_key_is_noticed_and_the_first_one_stays(ana, tmp_path):
    other = AuditedSite(tmp_path / "other")
    first = ana.site.log.verifier_key
    for key in (other.log.verifier_key, first + "x", "", first.replace("northside", "southside")):
        with pytest.raises(AuditBroken, match="signed with another key now") as broken:
            ana.witness.pin(OWNER, key)
        evidence = kept(ana, broken.value)
        assert (evidence["shown"], evidence["pinned"]) == (key, first)
    assert ana.witness.key(OWNER) == first
    ana.witness.pin(OWNER, first)
    refused(ana, other.release(), (), match="does not prove")
    other.database.close()


@pytest.mark.parametrize("key", ["", "no key", "of:another"])
def test_a_first_key_that_is_not_the_owners_is_not_pinned(ana, key):
    key = ana.site.log.verifier_key if key == "of:another" else key
    with pytest.raises(AuditBroken, match="not its own"):
        ana.witness.pin("other@north.example", key)
    assert ana.witness.key("other@north.example") is None


def test_without_a_key_nothing_can_be_checked(tmp_path, log):
    witness = Witness(tmp_path / "home")
    with pytest.raises(UnknownName, match="audit key of northside is not known"):
        witness.check(OWNER, SITE, log.release(), analyst=ANA, says={"output": OUTPUT})


def test_a_damaged_memory_is_said_and_not_started_anew(ana):
    ana.round()
    path = ana.home / "audit" / f"{OWNER}.json"
    good = path.read_bytes()
    for content in (b"", b"{}", good[:-9], good.replace(b"privnb/", b"privnb ", 1)):
        path.write_bytes(content)
        for act in (ana.ask, ana.round, lambda: ana.witness.pin(OWNER, "x")):
            with pytest.raises(StateError, match="is damaged"):
                act()
        assert path.read_bytes() == content
    path.write_bytes(good)
    ana.round()


def test_evidence_that_cannot_be_kept_does_not_hide_what_happened(ana):
    (ana.home / "audit" / "evidence").write_text("in the way")
    with pytest.raises(AuditBroken, match=r"without a receipt\. The evidence could not be kept"):
        ana.check(None)


def test_the_same_evidence_is_kept_once_and_of_one_site_not_without_end(ana):
    receipt = ana.site.release()
    for index in (*range(1, 30), *range(1, 30)):
        with pytest.raises(AuditBroken, match="does not prove"):
            ana.check(dataclasses.replace(receipt, index=index))
    assert len(ana.evidence()) == 20
    with pytest.raises(AuditBroken, match="Enough evidence of this site is in"):
        ana.check(dataclasses.replace(receipt, index=99))


@pytest.mark.parametrize("owner", ["%" * 100 + "@north.example", f"{'é' * 500}@north.example"])
def test_an_address_of_any_length_is_remembered(ana, owner):
    from privnb.audit import origin_of
    from privnb.site.audit import AuditLog

    key = AuditLog.open(ana.site.folder, origin=origin_of("x", "y@z")).verifier_key
    with pytest.raises(AuditBroken, match="not its own"):
        ana.witness.pin(owner, key)
    assert ana.witness.held(owner) == ()


def test_each_owner_has_a_log_of_their_own(ana, tmp_path):
    ana.round()
    assert ana.witness.held("../x@north.example") == ()
    with pytest.raises(AuditBroken):
        ana.witness.pin("../x@north.example", ana.site.log.verifier_key)
    assert sorted(path.name for path in ana.home.parent.iterdir()) == ["home", "site"]


# Trails


def test_a_trail_is_checked_as_answers_are(ana):
    ana.round(more=2)
    held = ana.ask()
    with ana.site.database.read() as snapshot:
        trail = ana.site.log.trail(snapshot, analyst=ANA, held=sizes(held))
        others = ana.site.log.trail(snapshot, analyst=BOB, held=sizes(held))
    proved = ana.witness.check_trail(OWNER, SITE, trail, analyst=ANA, held=held)
    assert [each.event["kind"] for each in proved] == ["release"]
    for wrong in (others, (*trail, *others)):
        with pytest.raises(AuditBroken, match="events that are not yours"):
            ana.witness.check_trail(OWNER, SITE, wrong, analyst=ANA, held=held)
    unopened = dataclasses.replace(trail[0], openings=None)
    with pytest.raises(AuditBroken, match="events that are not yours"):
        ana.witness.check_trail(OWNER, SITE, (unopened,), analyst=ANA, held=held)


def test_a_trail_that_leaves_out_what_was_proved_is_noticed(ana):
    for _ in range(3):
        ana.round(more=1)
    held = ana.ask()
    with ana.site.database.read() as snapshot:
        trail = ana.site.log.trail(snapshot, analyst=ANA, held=sizes(held))
    known = {"analyst": ANA, "held": held, "proved": {1, 3, 5}}
    assert len(ana.witness.check_trail(OWNER, SITE, trail, **known)) == 3
    for wrong in ((), trail[1:], trail[:1] + trail[2:]):
        with pytest.raises(AuditBroken, match="does not show answers that it gave you"):
            ana.witness.check_trail(OWNER, SITE, wrong, **known)
    for wrong in ((*trail[:1], *trail), trail[::-1]):
        with pytest.raises(AuditBroken, match="events that are not yours"):
            ana.witness.check_trail(OWNER, SITE, wrong, **known)


def test_a_trail_need_not_reach_further_back_than_the_newest_200_nor_over_its_end(ana):
    ana.round()
    ana.site.fill(200)
    with ana.site.database.read() as snapshot:
        trail = ana.site.log.trail(snapshot, analyst=ANA, held=sizes(ana.ask()))
    known = {"analyst": ANA, "held": ana.ask(), "proved": {0, 201}}
    assert len(ana.witness.check_trail(OWNER, SITE, trail, **known)) == 200


def test_a_trail_of_a_shortened_log_is_noticed(ana, tmp_path):
    ana.round()
    earlier = ana.site.copy(tmp_path / "earlier")
    ana.site = AuditedSite(ana.site.folder)
    ana.round()
    held = ana.ask()
    with earlier.database.read() as snapshot:
        trail = earlier.log.trail(snapshot, analyst=ANA, held=sizes(held))
    with pytest.raises(AuditBroken, match="shorter"):
        ana.witness.check_trail(OWNER, SITE, trail, analyst=ANA, held=held)
    for site in (earlier, ana.site):
        site.database.close()


@pytest.mark.parametrize(("old", "new"), list(itertools.product([1, 2, 3, 7, 8], [1, 2, 5])))
def test_growth_is_believed_from_any_size_to_any_other(ana, old, new):
    ana.round(more=old - 1)
    ana.round(more=new - 1)
    assert checkpoint_sizes(ana) == [old + new]
