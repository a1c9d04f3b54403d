//! What is sent to the API server.

mod patch;
