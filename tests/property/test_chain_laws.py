"""Laws of the chain: no segment is changed, removed or moved without being found."""

import hashlib
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import structs

from bci_bridge.chain import Chain, decoded, first_break
from bci_bridge.chain_file import check_chain
from bci_bridge.messages import Missing
from bci_bridge.recorder import Recorder
from bci_bridge.wire import encode
from runtime.errors import RecordingError
from runtime.small_json import encoded

CONTENTS = st.lists(st.binary(max_size=8), min_size=1, max_size=6)


def chained(contents):
    chain, found = Chain(), {}
    for number, data in enumerate(contents):
        name = f"{2 * number:06d}.mcap"
        found[name] = len(data), hashlib.sha256(data).hexdigest()
        chain = chain.with_segment(name, *found[name])
    return chain, found


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chained") / "inputs"
    recorder = Recorder(folder, segment_bytes=1500, sync_interval_s=0.001)
    for number in range(40):
        recorder.append("in/a", encode(Missing(volume_index=number), b"payload"), 0)
    recorder.close()
    names = sorted(path.name for path in folder.glob("*.mcap"))
    assert len(names) > 3
    return folder, names


def changed_copy(folder, change):
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "inputs")
        shutil.copytree(folder, copy)
        change(copy)
        return check_chain(copy).trouble


@settings(deadline=None)
@given(data=st.data())
def test_any_changed_byte_of_any_segment_names_that_segment(recorded, data):
    folder, names = recorded
    name = data.draw(st.sampled_from(names))
    content = bytearray((folder / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(
        st.integers(1, 255)
    )

    trouble = changed_copy(folder, lambda copy: (copy / name).write_bytes(content))

    assert trouble.startswith(f"{name}: expected sha256 ")


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_removed_segment_is_named(recorded, data):
    folder, names = recorded
    name = data.draw(st.sampled_from(names))

    trouble = changed_copy(folder, lambda copy: (copy / name).unlink())

    assert trouble == f"{name}: expected a segment, found none"


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_segments_in_each_others_place_are_found_at_the_first(recorded, data):
    folder, names = recorded
    first, second = sorted(data.draw(st.permutations(names))[:2])

    def swap(copy):
        (copy / first).rename(copy / "spare")
        (copy / second).rename(copy / first)
        (copy / "spare").rename(copy / second)

    assert changed_copy(folder, swap).startswith(f"{first}: expected ")


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_cut_or_longer_segment_is_named(recorded, data):
    folder, names = recorded
    name = data.draw(st.sampled_from(names))
    content = (folder / name).read_bytes()
    length = data.draw(st.integers(0, len(content) + 9).filter(len(content).__ne__))
    content = content.ljust(length, b"\0")[:length]

    trouble = changed_copy(folder, lambda copy: (copy / name).write_bytes(content))

    assert f"{name}: expected " in trouble
    assert trouble.endswith(f"bytes, found {length}")


@given(contents=CONTENTS)
def test_what_was_chained_fits_and_is_read_back(contents):
    chain, found = chained(contents)

    assert first_break(chain, found) == ""
    assert decoded(encoded(chain), "x") == chain


@given(contents=CONTENTS, data=st.data())
def test_a_link_that_says_something_else_breaks_the_chain_there(contents, data):
    chain, found = chained(contents)
    at = data.draw(st.integers(0, len(contents) - 1))
    other = hashlib.sha256(data.draw(st.binary(max_size=3))).hexdigest()
    changes = data.draw(
        st.sampled_from([{"sha256": other}, {"size": 9}, {"chain": other}])
    )
    link = structs.replace(chain.links[at], **changes)
    assume(link != chain.links[at])
    # Whoever changes a segment and its link, but not all that follows.
    found[link.segment] = link.size, link.sha256
    links = (*chain.links[:at], link, *chain.links[at + 1 :])

    trouble = first_break(structs.replace(chain, links=links), found)

    assert trouble.startswith(f"{link.segment}: expected chain ")


@given(contents=st.lists(st.binary(max_size=8), min_size=2, max_size=6), data=st.data())
def test_links_removed_or_in_another_order_break_the_chain(contents, data):
    chain, found = chained(contents)
    order = data.draw(st.permutations(range(len(contents))))
    cut = data.draw(st.integers(0, len(contents) - 2))
    moved = structs.replace(chain, links=tuple(chain.links[i] for i in order))
    removed = structs.replace(
        chain, links=(*chain.links[:cut], *chain.links[cut + 1 :])
    )

    assert (first_break(moved, found) == "") == (order == sorted(order))
    assert first_break(removed, found) != ""


@given(contents=st.lists(st.binary(max_size=8), min_size=2, max_size=6), data=st.data())
def test_a_segment_put_in_between_is_named_and_one_after_is_no_break(contents, data):
    chain, found = chained(contents)
    name = f"{data.draw(st.integers(0, len(contents) - 2)) * 2 + 1:06d}.mcap"

    trouble = first_break(chain, {**found, name: (0, "0" * 64)})

    assert trouble == f"{name}: expected no such segment, found one"
    assert first_break(chain, {**found, "000099.mcap": (0, "0" * 64)}) == ""


@given(contents=CONTENTS, data=st.data())
def test_the_head_tells_any_two_recordings_apart(contents, data):
    other = data.draw(CONTENTS.filter(lambda found: found != contents))

    assert chained(contents)[0].head != chained(other)[0].head


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_chain_or_a_recording_error(data):
    with pytest.raises(RecordingError):
        decoded(data, "x")
