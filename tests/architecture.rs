//! placeholder
#[test] fn t() {}
