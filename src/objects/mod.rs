//! What is kept of the objects that people write, and the rules that all who read them share.
//!
//! It promises: one projection of an object for all rooms; one rule of whose a Secret is, of what suspends, and of what a
//! status says already.

mod external_secret;
mod ownership;
mod rotation_rule;
pub mod status;
mod store;
mod suspension;
mod view;

pub use external_secret::*;
pub use ownership::{Ownership, controller, ownership, ownership_of_live};
pub use rotation_rule::RotationRule;
pub use store::{ClusterSecretStores, SecretStores, StoreEntry};
pub use suspension::Suspension;
pub use view::View;
