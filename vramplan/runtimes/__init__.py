"""How a runtime executes a graph and what memory that holds."""
