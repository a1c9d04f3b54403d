//! The reconciler of ExternalSecrets and of the stores: observe, plan, apply.
