//! From values as AWS gave them to the data of a Secret: select, extract, name the keys, merge. Pure.
//!
//! It promises: the same spec and values always give the same data; what is not said by a rule is not changed, not
//! even a space at an end; no error, no `Debug` holds a value or the name of a key that came out of one.

mod build;
mod error;
mod json;
mod keys;
mod username;

pub use build::{Fetched, MAX_SIZE, build, part};
pub use error::Fault;
pub use username::username;

#[cfg(test)]
mod tests;
