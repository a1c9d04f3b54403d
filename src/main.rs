//! Keyturn.
fn main() {}
