//! The room against a scripted AWS, which counts, and against the testbed's emulator, which is strict.

mod credentials;
mod emulator;
mod environment;
mod fake;
mod reader;
mod secrets;
