use proptest::prelude::*;

use crate::restart::observed::{
    model::Record,
    records::{parse, print},
};

#[test]
fn what_is_no_record_is_none() {
    for text in [
        "",
        "t",
        "t.",
        "t.x",
        ".1",
        "t.0",
        "t.300",
        "t.1.healthy",
        ".1.unhealthy",
    ] {
        assert_eq!(parse(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn records_are_read_as_they_were_written(token in "[a-z0-9.]{1,40}", attempt in 1_u8.., was_healthy: bool) {
        let record = Record { token: token.into(), attempt, was_healthy };
        prop_assert_eq!(parse(&print(&record)), Some(record));
    }
}
