//! The room against a scripted AWS on loopback.

mod credentials;
mod fake;
mod reader;
mod secrets;
