//! The order and the limits of restarts.

pub(in crate::restart) mod decide;
