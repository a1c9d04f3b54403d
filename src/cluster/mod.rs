//! Kubernetes plumbing: slim watches and indexes, writes with preconditions, events, lease, server time.
