//! What Keyturn is developed and shown on.

pub mod aws;
pub mod controlplane;
pub mod wait;
