//! The reconciler of ExternalSecrets and of the stores: observe, plan, apply.

pub mod queue;
pub mod work;
