"""One file is one way of drafting: a frozen dataclass of options that opens a drafter."""
