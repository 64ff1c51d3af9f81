"""Running a decoder on fewer tokens than it was given: the session, its hooks, and what it remembers of a call."""
