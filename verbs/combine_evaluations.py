"""`neuroflow evaluate --combine`: several participants' evaluations as one."""

from collections.abc import Sequence
from pathlib import Path

from runtime.errors import ArtifactError, BundleError, UsageError
from runtime.strict_json import decode_once
from training.metrics.combined import Judged, combine
from training.metrics.ledger import decode_ledger
from training.metrics.report import combined_to_markdown, to_json
from training.metrics.result import BundleEvaluation, CombinedEvaluation
from verbs.evaluate_bundle import EVALUATION, LEDGER
from verbs.sealed_places import refuse_sealed


def combine_evaluations(
    folders: Sequence[Path], *, out: Path | None, as_json: bool, is_alone: bool = True
) -> CombinedEvaluation:
    """Read what `evaluate --bundle --out` wrote of several people; print their mean.

    Args:
        folders: One a participant.
        out: Folder for the JSON and the tables; None writes none.
        as_json: Print the JSON instead of the tables.
        is_alone: Nothing was given that would have to be evaluated.

    Raises:
        UsageError: Fewer than two, the same participant twice, other splits or betas,
            or `out` is a file or one of the folders.
        ArtifactError: A folder holds no evaluation, or a damaged one; or `out` is a
            folder that lists its files, or in one.
    """
    if not is_alone:
        raise UsageError(
            "evaluate --combine: expected folders of evaluations and --out, found "
            "more beside them: a bundle, a recording, trials or a flag of theirs"
        )
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out: expected a folder, found the file {out}")
    if out is not None:
        refuse_sealed(out)
    if out is not None and out.resolve() in {one.resolve() for one in folders}:
        raise UsageError(
            f"--out: expected another folder than those that are combined, found {out}"
        )
    found = combine([_read(folder) for folder in folders])
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "combined.json").write_bytes(to_json(found))
        (out / "combined.md").write_text(combined_to_markdown(found), encoding="utf-8")
    print(to_json(found).decode() if as_json else combined_to_markdown(found), end="")
    return found


def _read(folder: Path) -> Judged:
    data = {}
    for name in (EVALUATION, LEDGER):
        try:
            data[name] = (folder / name).read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"{folder / name}: expected what evaluate --bundle --out wrote, found "
                f"{error.strerror}. Evaluate again"
            ) from error
    file = folder / EVALUATION
    try:
        result = decode_once(data[EVALUATION], BundleEvaluation, str(file))
    except BundleError as error:
        raise ArtifactError(
            f"{file}: expected an evaluation of this version, found another or a "
            f"damaged one ({error}). Evaluate again"
        ) from error
    return Judged(
        str(folder), result, decode_ledger(data[LEDGER], str(folder / LEDGER))
    )
