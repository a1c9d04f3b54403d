//! What users write and what every room calls by the same name. No IO.

pub mod object;
pub mod remote;

pub use object::ObjectKey;
pub use remote::{Selector, SourceId, VersionId};
