//! What Keyturn is developed and shown on.

pub mod controlplane;
pub mod wait;
