"""The what-if board: a page on this machine whose answers follow sliders. Estimates run in processes that can be ended."""
