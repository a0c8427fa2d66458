"""Lineage of tasks for OpenLineage: files in, files out, and the predictions between.

Namespaces and names of files follow https://openlineage.io/docs/spec/naming. The provider
`apache-airflow-providers-openlineage` calls the methods of the operators, and only then this module imports
OpenLineage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_vace.input_files import FILE_FIELDS, is_path
from airflow_vace.inputs import DEFAULT_MODEL
from airflow_vace.other_inputs import paths_anywhere

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# An event with more would be larger than most receivers take.
MAX_PREDICTIONS = 200
_MEMBERS = ("id", "model", "version", "seed", "status", "cost", "label")
_SCHEMES = {"gcs": "gs", "s3a": "s3", "s3n": "s3", "local": "file"}


@dataclass(slots=True)
class Lineage:
    """The files and predictions of a task.

    :param inputs: addresses of files, without repetition
    :param files: saved files, each `{"uri", "size", ...}`
    :param payloads: payloads of predictions
    """

    inputs: list[str] = field(default_factory=list)
    files: list[Mapping[str, Any]] = field(default_factory=list)
    payloads: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, values: Mapping[str, Any], payload: Mapping[str, Any], *, model: str | None) -> None:
        """Add a prediction.

        :param values: the input, {} if unknown
        :param payload: the payload, with saved files
        :param model: `owner/name`, which says the fields of files
        """
        found = [*dict.fromkeys(_files_in(values, model or DEFAULT_MODEL))]
        self.inputs += [address for address in found if address not in self.inputs]
        self.files += payload.get("files") or []
        self.payloads.append(payload)

    def for_openlineage(self) -> Any:
        """Return the `OperatorLineage` of the provider of OpenLineage."""
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import InputDataset, OutputDataset
        from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

        outputs = [
            OutputDataset(
                *dataset_of(str(file.get("uri"))),
                outputFacets={
                    "outputStatistics": statistics.OutputStatisticsOutputDatasetFacet(
                        size=file.get("size"), fileCount=1
                    )
                },
            )
            for file in self.files
        ]
        known = [{name: payload.get(name) for name in _MEMBERS} for payload in self.payloads]
        facet = _facet_class()(count=len(known), predictions=known[:MAX_PREDICTIONS])
        return OperatorLineage(
            inputs=[InputDataset(*dataset_of(address)) for address in self.inputs],
            outputs=outputs,
            run_facets={"vace": facet} if known else {},
        )


def dataset_of(address: str) -> tuple[str, str]:
    """Return namespace and name of a file, without the id of a connection, user info and signature.

    :param address: such as `s3://aws_default@bucket/a.mp4`, `file:///a.mp4` or `https://host/a.mp4?sig=…`
    """
    scheme, _, rest = address.partition("://")
    scheme = _SCHEMES.get(scheme.lower(), scheme.lower())
    store, slash, path = rest.partition("/")
    if scheme in ("http", "https"):
        # Elsewhere a question mark and a number sign are letters of a name.
        parts = urlsplit(address)
        store, path = parts.netloc, parts.path
    if scheme == "file":
        return "file", slash + path
    host = store.rpartition("@")[2]
    # For Azure the part before @ is the container, and belongs to the name of the store.
    if scheme in ("abfs", "abfss", "wasb", "wasbs") and "." in host:
        host = store
    return f"{scheme}://{host}", path.lstrip("/")


def _files_in(values: Mapping[str, Any], model: str) -> Iterator[str]:
    """Yield the addresses of the files in an input; `data:` URLs have none."""
    if model.partition(":")[0].lower() != DEFAULT_MODEL:
        yield from (text for _, text in paths_anywhere(values))
        return
    for name in FILE_FIELDS:
        yield from (text for text in _texts(values.get(name)) if is_path(text) or _is_web(text))


def _is_web(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _texts(value: object) -> Iterable[str]:
    items = value if isinstance(value, list | tuple) else [value]
    return (item for item in items if isinstance(item, str))


@cache
def _facet_class() -> Any:
    """Return the class of the run facet `vace`, whose base only OpenLineage has."""
    import attr
    from openlineage.client.facet_v2 import RunFacet

    @attr.define
    class VaceRunFacet(RunFacet):  # type: ignore[misc]  # the base is unknown without the provider
        """Predictions of a task: id, model, version, seed, status, cost and label of each, and the number.

        A batch with more than 200 predictions has the first 200 here, and all in its manifest.
        """

        count: int = 0
        predictions: list[dict[str, Any]] = attr.field(factory=list)

    return VaceRunFacet
