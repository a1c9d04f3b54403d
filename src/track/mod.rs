//! Which remote secrets are wanted, by whom, how fresh; when to check, with which call; what changed. Pure.
