"""Files in and out of a deployment's own storage: streamed, checked, and put in place whole."""

from airflow_vace.media.destination import Destination
from airflow_vace.media.lineage import report_output
from airflow_vace.media.manifests import find_saved
from airflow_vace.media.saving import save_output
from airflow_vace.media.sources import Sources, mask_signatures

__all__ = ("Destination", "Sources", "find_saved", "mask_signatures", "report_output", "save_output")
