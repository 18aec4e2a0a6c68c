"""Builds a release again, from its archive alone, and says of every file whether it is the same.

A release is a program: its folder ``source/`` holds the code of its steps and what its
environments are made of. That code is run only if it is this Kiln's own, if the release is
signed by a key that the user has named, or if they say that they trust it.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kiln.errors import BundleError, RequestError, os_errors
from kiln.executors.protocol import Executor
from kiln.paths import Paths
from kiln.pipeline.build import hash_file_input, hash_inputs
from kiln.pipeline.events import Observer
from kiln.pipeline.runner import Runner, StepOutcome
from kiln.plan import steps
from kiln.plan.request import BuildRequest
from kiln.plan.step import FromHost, FromStep, Step
from kiln.plan.steps import FINETUNE_FOLDER
from kiln.release.archive import SIGNATURE, SUMS, check_sums, read_archive
from kiln.release.provenance import BuildDefinition, read_definition
from kiln.release.write import PROVENANCE, PUBLIC_KEY, SOURCE, run_by
from kiln.report.result import BUILD_FILE, BuildResult, load_build
from kiln.store.tree import Tree, hash_file
from stages.results.difference import DifferenceResult
from stages.results.host import without_host

#: Steps that learn, and may not give the same again: what they gave is in a release.
_LEARNING = ("train", "finetune")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """An unpacked release whose sums are right; ``files`` are digests by name.

    ``signer`` is the fingerprint of the key that signed it; ``known``: the user named that key.
    """

    folder: Path
    digest: str
    files: Mapping[str, str]
    definition: BuildDefinition
    build: BuildResult
    signer: str | None
    known: bool

    @property
    def source(self) -> Path:
        return self.folder / SOURCE

    @property
    def name(self) -> str:
        return self.build.name

    @property
    def weights_file(self) -> str:
        """The name of the released weights."""
        return next(name for name in self.definition.files if name.endswith(".safetensors"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileComparison:
    """One released file: ``same``, or since which ``step`` it is not, and ``how``.

    ``taken`` says why the file was not made again, but went into what was.
    """

    name: str
    same: bool
    step: str = ""
    how: str = ""
    taken: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """What came of building a release again. ``figures``: steps that gave other figures."""

    name: str
    sha256: str
    signer: str | None
    known: bool
    files: tuple[FileComparison, ...]
    figures: tuple[str, ...]

    @property
    def reproduced(self) -> bool:
        return all(each.same for each in self.files)


def open_release(bundle: Path, paths: Paths, public_key: Path | None) -> Release:
    """Unpack a release and check sums and signature; raises BundleError, RequestError."""
    if not bundle.is_file():
        raise BundleError(f"the release {bundle} does not exist", hint="pass BUNDLE=….release.tar")
    digest = hash_file(bundle)
    folder = paths.home / "verify" / digest[:16]
    read_archive(bundle, folder / "release")
    release = folder / "release"
    files = check_sums(release)
    signer, known = _check_signature(release, public_key)
    for name in (PROVENANCE, BUILD_FILE):
        if name not in files:
            raise BundleError(f"{name} is missing from the release")
    definition = read_definition(_text(release / PROVENANCE))
    missing = [name for name in definition.files if name not in files]
    if missing:
        raise BundleError(f"{missing[0]} is missing from the release")
    build = _read_build(release, definition)
    return Release(
        folder=release,
        digest=digest,
        files=files,
        definition=definition,
        build=build,
        signer=signer,
        known=known,
    )


class Verifier:
    """Builds one release again. ``request`` brings data set and weights; ``trusted``: the user
    says so; ``choose_executor`` is told where the code of the steps lies.
    """

    def __init__(
        self,
        release: Release,
        request: BuildRequest,
        paths: Paths,
        choose_executor: Callable[[Path], Executor],
        *,
        trusted: bool,
    ) -> None:
        self._release = release
        self._trusted = trusted or release.known
        self._request = request
        self._paths = paths
        self._choose_executor = choose_executor
        # A store of its own: what the release's maker has in theirs would prove nothing. It stays
        # until the end, so that a verification that was broken off goes on.
        self._home = release.folder.parent
        self._runner = Runner(
            Paths(root=release.source, home=self._home, results=self._home),
            request.limits,
            lambda: choose_executor(release.source),
        )

    def verify(self, observer: Observer) -> Verification:
        """Run every step of the definition and compare what it gives; raises KilnError.

        What is not the same again is kept, in ``rebuilt``.
        """
        self._refuse_strangers()
        steps, brought, taken = self._prepare()
        made = self._runner.run(steps, brought, observer)
        recorded = {step.name: step for step in self._release.build.steps}
        changed = [name for name, each in made.items() if _outputs(each) != recorded[name].outputs]
        files = [
            self._judge(name, made, changed, taken, observer)
            for name in self._release.definition.files
        ]
        verification = Verification(
            name=self._release.name,
            sha256=self._release.digest,
            signer=self._release.signer,
            known=self._release.known,
            files=tuple(files),
            figures=tuple(
                each.step.title
                for name, each in made.items()
                if without_host(each.result) != recorded[name].result
            ),
        )
        if verification.reproduced:
            shutil.rmtree(self._home, ignore_errors=True)
        return verification

    @property
    def rebuilt(self) -> Path:
        """The folder of files that are not the same again."""
        return self._home / "rebuilt"

    def _refuse_strangers(self) -> None:
        """Raises RequestError for code that the user has not said to trust."""
        if self._trusted:
            return
        with os_errors("cannot read the release"):
            own, theirs = (run_by(each) for each in (self._paths.root, self._release.source))
        if own != theirs:
            raise RequestError(
                "building this release again runs its own code, which is not that of this Kiln",
                hint="pass the PUBLIC_KEY= of whom you trust, use the version of Kiln that made "
                "it, or say TRUST_BUNDLE=1",
            )

    def _prepare(self) -> tuple[list[Step], dict[str, Tree], dict[str, str]]:
        """Steps to run, what they are given, and why which step is not among them.

        Raises RequestError if the user must bring something, or has brought something else.
        """
        definition = self._release.definition
        brought = hash_inputs(self._request, self._paths, self._runner)
        for name, digest in definition.inputs.items():
            if name in brought and brought[name].digest != digest:
                raise RequestError(
                    f"{_called(name)} is not what this release was made from: "
                    f"{brought[name].digest[:12]}… instead of {digest[:12]}…",
                    hint=f"it was made from {_said(definition.request, name)}",
                )
        if "data" in definition.inputs and "data" not in brought:
            raise RequestError(
                f"this release was made from a data set that is not in it, "
                f"{definition.request.get('data')} with the digest "
                f"{definition.inputs['data'][:12]}…",
                hint="pass DATA=",
            )
        if FINETUNE_FOLDER in definition.inputs and FINETUNE_FOLDER not in brought:
            raise RequestError(
                "this release was fine-tuned with images that are not in it, "
                f"{_said(definition.request, FINETUNE_FOLDER)} with the digest "
                f"{definition.inputs[FINETUNE_FOLDER][:12]}…",
                hint="name their folder: folder in [finetune] of kiln.toml, and its quantize",
            )
        steps, taken = list(definition.steps), self._taken(brought)
        for name, source in definition.files.items():
            if source.step in taken:
                released = FromHost(source=f"released {name}")
                path = self._release.folder / name
                brought[released.source] = hash_file_input(path, self._runner)
                steps = _from_released(steps, source, released)
        return steps, brought, taken

    def _taken(self, brought: Mapping[str, Tree]) -> dict[str, str]:
        """Steps that are not run again because what they gave is taken as it is, and why."""
        definition = self._release.definition
        taken = {name: why for name, why in definition.fixed.items() if name in _LEARNING}
        if "weights" in definition.inputs and "weights" not in brought:
            source = definition.files[self._release.weights_file]
            why = f"WEIGHTS={definition.request.get('weights')} was not given"
            taken[source.step] = why
        return taken

    def _judge(
        self,
        name: str,
        made: Mapping[str, StepOutcome],
        changed: Sequence[str],
        taken: Mapping[str, str],
        observer: Observer,
    ) -> FileComparison:
        source = self._release.definition.files[name]
        if source.step in taken:
            return FileComparison(name=name, same=True, taken=taken[source.step])
        file = made[source.step].entry.files[source.path]
        if file.sha256 == self._release.files[name]:
            return FileComparison(name=name, same=True)
        origins = _origins(source.step, self._release.definition.steps)
        # Where every step gave what build.json says, the file was changed behind its back.
        first = next((step for step in made if step in origins & set(changed)), source.step)
        how = self._difference(self._release.folder / name, file.path, observer)
        with os_errors("cannot keep what was made"):
            self.rebuilt.mkdir(exist_ok=True)
            shutil.copyfile(file.path, self.rebuilt / name)
        return FileComparison(name=name, same=False, step=first, how=how)

    def _difference(self, left: Path, right: Path, observer: Observer) -> str:
        """In words; made by a step of this Kiln's own, which can read such files."""
        suffix = left.suffix.removeprefix(".")
        brought = {
            side: hash_file_input(path, self._runner)
            for side, path in (("left", left), ("right", right))
        }
        step = steps.difference(left.name, suffix)
        own = dataclasses.replace(self._paths, home=self._home)
        runner = Runner(own, self._request.limits, lambda: self._choose_executor(own.root))
        outcomes = runner.run([step], brought, observer)
        found: DifferenceResult = outcomes["difference"].result
        start = f"from byte {found.offset:,} on"
        if found.sizes[0] != found.sizes[1]:
            start += f", {found.sizes[1]:,} bytes instead of {found.sizes[0]:,}"
        if not found.where:
            return start
        more = f"{found.differing} of {found.tensors} tensors differ"
        return f"{start}: {found.where}; {more}"


def _read_build(release: Path, definition: BuildDefinition) -> BuildResult:
    """What the release says of its build, of every step of it; raises BundleError."""
    try:
        build = load_build(release)
    except RequestError as error:
        raise BundleError(
            f"the release's build.json cannot be used: {error.message}",
            hint="it was made by another version of Kiln: use the one in its folder source/",
        ) from error
    lost = [step.name for step in definition.steps if build.step(step.name) is None]
    if lost:
        raise BundleError(
            f"the release's build.json cannot be used: it says nothing of the step {lost[0]}"
        )
    return build


def _outputs(made: StepOutcome) -> dict[str, str]:
    return {name: file.sha256 for name, file in made.entry.files.items()}


def _called(name: str) -> str:
    """How a user names what they brought."""
    return "folder in [finetune]" if name == FINETUNE_FOLDER else name.upper()


def _said(request: Mapping[str, Any], name: str) -> Any:
    """What a request says at a name with dots."""
    table: Any = request
    for part in name.split("."):
        table = table.get(part) if isinstance(table, Mapping) else None
    return table


def _from_released(steps: Sequence[Step], source: FromStep, released: FromHost) -> list[Step]:
    """The steps without the one that gave what is released, and without what only it needs."""
    kept = [_with_released(step, source, released) for step in steps if step.name != source.step]
    # Backwards: a step stays if it gives a result of its own, or something that one that stays
    # needs. Before one that learns there is nothing of the former kind.
    before = {step.name for step in steps[: [each.name for each in steps].index(source.step)]}
    wanted: set[str] = set()
    for step in reversed(kept):
        if step.name not in before or step.name in wanted:
            wanted |= {step.name}
            wanted |= {each.step for each in step.inputs.values() if isinstance(each, FromStep)}
    return [step for step in kept if step.name in wanted]


def _with_released(step: Step, source: FromStep, released: FromHost) -> Step:
    inputs = {name: released if each == source else each for name, each in step.inputs.items()}
    return dataclasses.replace(step, inputs=inputs)


def _origins(name: str, steps: Sequence[Step]) -> set[str]:
    """A step and all that it was made from."""
    by_name = {step.name: step for step in steps}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            sources = by_name[each].inputs.values()
            waiting += [source.step for source in sources if isinstance(source, FromStep)]
    return found


def _check_signature(folder: Path, public_key: Path | None) -> tuple[str | None, bool]:
    """The signer's fingerprint, and whether the user knows that key; raises BundleError."""
    # OpenSSL takes a while to load, and most releases carry no signature.
    if not (folder / SIGNATURE).is_file():
        if public_key is not None:
            raise BundleError("the release is not signed", hint="ask its maker for a signed one")
        return None, False
    from kiln.release.signing import check_signature, fingerprint, public_pem, read_public_key

    carried = read_public_key(folder / PUBLIC_KEY)
    check_signature(carried, (folder / SIGNATURE).read_bytes(), (folder / SUMS).read_bytes())
    if public_key is None:
        return fingerprint(carried), False
    wanted = read_public_key(public_key)
    if public_pem(wanted) != public_pem(carried):
        raise BundleError(
            f"the release is signed by {fingerprint(carried)}, and {public_key} is "
            f"{fingerprint(wanted)}",
            hint="it is not from whom you expected",
        )
    return fingerprint(carried), True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path.name} cannot be read: {error}") from error
