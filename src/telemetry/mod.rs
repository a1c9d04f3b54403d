//! Logs, the audit log, the metrics registry and the HTTP server.
