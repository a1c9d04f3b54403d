//! The testbed binary.
fn main() {}
