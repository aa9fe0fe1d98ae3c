"""Results as one web page: a file of its own that needs no network, with the numbers of the JSON report inside."""

from vramplan.report.html.page import estimate_page, replay_page, streams_page, verification_page

__all__ = ["estimate_page", "replay_page", "streams_page", "verification_page"]
