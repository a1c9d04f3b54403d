//! The order and the limits of restarts.

pub mod decide;
