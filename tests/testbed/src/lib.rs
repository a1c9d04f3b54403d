//! What Keyturn is developed and shown on.

pub mod aws;
