"""`neuroflow compile` fills the cache, and says what was built and what was there."""

import msgspec
import pytest

from runtime.errors import ArtifactError, BackendError, UsageError
from tests.models import tiny_bundle
from verbs.compile import Compiled, compile_bundle

pytestmark = pytest.mark.slow


def compiled(capsys, **changes) -> tuple[Compiled, str]:
    arguments = {"backend": "openvino", "precision": "f32", "threads": 1}
    compile_bundle(tiny_bundle(), as_json=True, **arguments | changes)
    printed = capsys.readouterr()
    return msgspec.json.decode(printed.out, type=Compiled), printed.err


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "neuroflow/engines"


def test_a_bundle_is_compiled_once_and_found_again(capsys, cache):
    first, progress = compiled(capsys)
    again, _ = compiled(capsys)
    other, _ = compiled(capsys, threads=2)

    assert first.cache == str(cache)
    names = ["encoder", "retrieval", "decoder", "step"]
    assert [one.graph for one in first.graphs] == names
    for result, is_kept in ((first, False), (again, True), (other, False)):
        assert [one.from_cache for one in result.graphs] == [is_kept] * 4
        assert result.unstored == 0
    assert len(list(cache.glob("*.engine"))) == 8
    assert progress.splitlines() == [
        f"neuroflow: compile {i} of 4: {name} for openvino f32"
        for i, name in enumerate(names, start=1)
    ]


def test_lines_for_people_say_the_same(capsys, cache):
    compile_bundle(
        tiny_bundle(), backend="openvino", precision="f32", threads=1, as_json=False
    )

    *graphs, last = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in graphs] == [
        ["encoder", "built"],
        ["retrieval", "built"],
        ["decoder", "built"],
        ["step", "built"],
    ]
    assert last.endswith(f"f32: gives the golden vectors; kept in {cache}")


def test_a_wrong_number_of_threads_is_refused_before_anything_is_built(capsys, cache):
    with pytest.raises(UsageError, match=r"^threads: expected at least 1, found 0$"):
        compiled(capsys, threads=0)

    assert capsys.readouterr().err == ""
    assert not cache.exists()


def test_engines_that_could_not_be_kept_are_a_failure(capsys, cache):
    cache.parent.mkdir()
    cache.write_text("no folder")

    with pytest.raises(ArtifactError) as caught:
        compile_bundle(
            tiny_bundle(), backend="openvino", precision="f32", threads=1, as_json=False
        )

    assert str(caught.value) == (
        f"{cache}: expected to keep 4 engines, found 4 that could not be. Each start "
        "builds them; see why above."
    )
    assert caught.value.exit_status == 1
    assert f"not all kept in {cache}" in capsys.readouterr().out


def test_where_there_is_no_gpu_that_is_one_line(capsys, cache):
    try:
        compiled(capsys, backend="tensorrt")
    except BackendError as error:
        assert "\n" not in str(error)  # noqa: PT017  # a GPU may be there
        assert str(error).startswith(("tensorrt: expected", "cuda: expected"))  # noqa: PT017
    else:
        assert list(cache.glob("*-tensorrt*"))
