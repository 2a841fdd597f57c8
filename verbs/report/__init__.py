"""The report of a decoding session: one HTML page and one picture."""

from verbs.report.data import Report, ReportCandidate, ReportTrial, VolumeTiming
from verbs.report.page import report_html
from verbs.report.sheet import contact_sheet

__all__ = [
    "Report",
    "ReportCandidate",
    "ReportTrial",
    "VolumeTiming",
    "contact_sheet",
    "report_html",
]
