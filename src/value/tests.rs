use proptest::prelude::*;

use super::*;
use super::{build::SecretData, error::Error};
use crate::api::{
    external_secret::{DataEntry, DataFromEntry, ExternalSecretSpec, RemoteRef},
    reason::Reason,
};

fn remote(key: &str, property: Option<&str>) -> RemoteRef {
    RemoteRef {
        key: key.into(),
        property: property.map(Into::into),
        ..RemoteRef::default()
    }
}

fn spec(extracts: &[Option<&str>], data: &[(&str, Option<&str>)]) -> ExternalSecretSpec {
    ExternalSecretSpec {
        data_from: Some(
            extracts
                .iter()
                .map(|property| DataFromEntry {
                    extract: Some(remote("prod/db", *property)),
                })
                .collect(),
        ),
        data: Some(
            data.iter()
                .map(|(key, property)| DataEntry {
                    secret_key: (*key).into(),
                    remote_ref: remote("prod/db", *property),
                })
                .collect(),
        ),
        ..ExternalSecretSpec::default()
    }
}

fn of(spec: &ExternalSecretSpec, values: &[&[u8]]) -> Result<SecretData, Error> {
    build(spec, |index| {
        values
            .get(index)
            .map_or(Fetched::Gone, |value| Fetched::Value(value))
    })
}

fn property(value: &str, path: &str) -> Result<String, Error> {
    of(&spec(&[], &[("k", Some(path))]), &[value.as_bytes()])
        .map(|built| String::from_utf8(built.data["k"].to_vec()).unwrap())
}

fn extract(value: &str) -> Result<Vec<(String, String)>, Error> {
    let built = of(&spec(&[None], &[]), &[value.as_bytes()])?;
    Ok(built
        .data
        .iter()
        .map(|(key, value)| (key.clone(), String::from_utf8(value.to_vec()).unwrap()))
        .collect())
}

fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> Reason {
    result.unwrap_err().reason()
}

#[test]
fn a_whole_value_keeps_every_byte() {
    for value in [&b"  text\n"[..], b"", &[0, 159, 146, 150], br#"{"a": 1}"#] {
        let built = of(&spec(&[], &[("k", None)]), &[value]).unwrap();
        assert_eq!(built.data.get("k").unwrap().as_slice(), value);
        // An empty property is none.
        let built = of(&spec(&[], &[("k", Some(""))]), &[value]).unwrap();
        assert_eq!(built.data.get("k").unwrap().as_slice(), value);
    }
}

#[test]
fn a_property_is_rendered_as_external_secrets_does() {
    let cases = [
        (r#"{"a": "x\n\"y\" \u00e9"}"#, "a", "x\n\"y\" \u{e9}"),
        (
            r#"{"a": 12345678901234567890123}"#,
            "a",
            "12345678901234567890123",
        ),
        (r#"{"a": -7}"#, "a", "-7"),
        (r#"{"a": 1.50}"#, "a", "1.5"),
        (r#"{"a": 1e3}"#, "a", "1000"),
        (r#"{"a": 1E-7}"#, "a", "0.0000001"),
        (r#"{"a": 1.0}"#, "a", "1"),
        (r#"{"a": 123456789012345678.5}"#, "a", "123456789012345680"),
        (r#"{"a": true}"#, "a", "true"),
        (r#"{"a": null}"#, "a", ""),
        (r#"{"a": {"b":  [1, 2.50]}}"#, "a", r#"{"b":  [1, 2.50]}"#),
        (r#"{"a": {"b":  [1, 2.50]}}"#, "a.b", "[1, 2.50]"),
        (r#"{"a": {"b":  [1, 2.50]}}"#, "a.b.1", "2.5"),
        (r#"[{"x": "first"}]"#, "0.x", "first"),
        (r#"{"a.b": "literal", "a": {"b": "nested"}}"#, "a.b", "literal"),
        (r#"{"a": {"b": "nested"}}"#, "a.b", "nested"),
        (r#"{"a": {"tls.crt": "pem"}}"#, r"a.tls\.crt", "pem"),
        (r#"{"0": "member"}"#, "0", "member"),
        (r#"{"a": "first", "a": "second"}"#, "a", "first"),
    ];
    for (value, path, expected) in cases {
        assert_eq!(property(value, path).unwrap(), expected, "{value} {path}");
    }
}

#[test]
fn a_missing_property_names_itself_and_the_secret() {
    for (value, path) in [
        (r#"{"a": 1}"#, "b"),
        (r#"{"a": 1}"#, "a.b"),
        ("[1]", "1"),
        ("[1]", "+0"),
        ("[1]", ""),
        ("7", "a"),
    ] {
        if path.is_empty() {
            continue;
        }
        let error = property(value, path).unwrap_err();
        assert_eq!(error.reason(), Reason::PropertyNotFound);
        let sentence = format!("data[0]: the value of \"prod/db\" has no property {path:?}: ");
        assert!(error.to_string().starts_with(&sentence), "{error}");
    }
}

#[test]
fn an_extract_gives_each_member_in_the_words_of_its_source() {
    let value = r#"{"s": "x\ty", "n": 1.50, "i": 007e0, "o": {"b":  1}, "z": null}"#;
    assert_eq!(reason(extract(value)), Reason::InvalidValue, "007e0 is no JSON");
    let value = r#"{"s": "x\ty", "n": 1.50, "e": 1e400, "o": {"b":  1}, "z": null, "t": true}"#;
    let expected = [
        ("e", "1e400"),
        ("n", "1.50"),
        ("o", r#"{"b":  1}"#),
        ("s", "x\ty"),
        ("t", "true"),
        ("z", ""),
    ];
    assert_eq!(
        extract(value).unwrap(),
        expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
    );
}

#[test]
fn an_extract_may_look_into_a_property_even_into_its_text() {
    for value in [r#"{"p": {"a": "x"}}"#, r#"{"p": "{\"a\": \"x\"}"}"#] {
        let built = of(&spec(&[Some("p")], &[]), &[value.as_bytes()]).unwrap();
        assert_eq!(built.data.get("a").unwrap().as_slice(), b"x");
    }
}

#[test]
fn keys_are_converted_and_never_collide_silently() {
    let converted = extract(r#"{"a/b c": "1", "x.y-z_0": "2"}"#).unwrap();
    assert_eq!(
        converted,
        [("a_b_c".into(), "1".into()), ("x.y-z_0".into(), "2".into())]
    );
    assert_eq!(
        extract(r#"{"a": "1", "a": "2"}"#).unwrap(),
        [("a".into(), "2".into())],
        "the last double wins"
    );
    let error = extract(r#"{"a/b": "1", "a b": "2", "a_b": "3"}"#).unwrap_err();
    let Error::Entry { fault, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(fault, Fault::CollidingKeys { count: 2 });
}

#[test]
fn keys_that_kubernetes_refuses_are_counted_and_not_named() {
    let long = "x".repeat(254);
    for key in [".", "..", "..a", "schlüssel", &long] {
        let error = extract(&format!(r#"{{{key:?}: "canary-value", "fine": "x"}}"#)).unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidValue);
        let text = format!("{error} {error:?}");
        assert!(text.contains("has 1 member(s)"), "{text}");
        assert!(
            !text.contains("schl") && !text.contains("canary") && !text.contains("fine"),
            "{text}"
        );
    }
    let longest = "x".repeat(253);
    assert_eq!(
        extract(&format!(r#"{{{longest:?}: "x", ".a": "y"}}"#))
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn empty_keys_are_dropped_and_counted() {
    let built = of(&spec(&[None], &[]), &[br#"{"": "x", "a": "y"}"#]).unwrap();
    assert_eq!((built.data.len(), built.dropped_empty_keys), (1, 1));
}

#[test]
fn what_is_not_json_never_shows_in_an_error() {
    for value in [
        "canary-7781",
        r#"{"canary-7781": canary}"#,
        r#"{"a": "canary-7781"#,
        r#"{"a": 1} canary-7781"#,
    ] {
        for spec in [spec(&[], &[("k", Some("a"))]), spec(&[None], &[])] {
            let error = of(&spec, &[value.as_bytes()]).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidValue);
            let text = format!("{error} {error:?}");
            assert!(!text.contains("canary"), "{text}");
        }
    }
    for (value, expected) in [
        (r#"{"a": "\ud800"}"#, Reason::InvalidValue),
        (r#"{"a": 1e400, "b": "canary-7781"}"#, Reason::InvalidValue),
    ] {
        let error = property(value, "a").unwrap_err();
        assert_eq!(error.reason(), expected);
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}

#[test]
fn an_extract_wants_an_object_with_members() {
    let cases = [
        ("{}", Reason::NothingFound),
        ("[]", Reason::InvalidValue),
        ("null", Reason::InvalidValue),
        ("\"text\"", Reason::InvalidValue),
        ("", Reason::InvalidValue),
    ];
    for (value, expected) in cases {
        assert_eq!(reason(extract(value)), expected, "{value}");
    }
}

#[test]
fn later_entries_win_and_data_wins_over_data_from() {
    let spec = spec(&[None, None], &[("b", None)]);
    let built = of(
        &spec,
        &[
            br#"{"a": "1", "b": "1", "c": "1"}"#,
            br#"{"a": "2", "b": "2"}"#,
            b"3",
        ],
    )
    .unwrap();
    let values: Vec<_> = built
        .data
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()))
        .collect();
    assert_eq!(values, [("a", &b"2"[..]), ("b", b"3"), ("c", b"1")]);
}

#[test]
fn gone_entries_give_no_keys_and_are_told() {
    let built = of(
        &spec(&[None], &[("k", None), ("l", Some("p"))]),
        &[br#"{"a": "1"}"#],
    )
    .unwrap();
    assert_eq!(built.gone, [1, 2]);
    assert_eq!(built.data.keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_secret_over_a_mebibyte_is_too_large() {
    let half = vec![b'x'; MAX_SIZE / 2];
    let both = spec(&[], &[("a", None), ("b", None)]);
    assert!(of(&both, &[&half, &half]).is_ok());
    let three = spec(&[], &[("a", None), ("b", None), ("c", None)]);
    assert_eq!(reason(of(&three, &[&half, &half, b"x"])), Reason::TooLarge);
}

#[test]
fn no_size_shows_in_an_error() {
    let spec = spec(&[], &[("a", None), ("b", None)]);
    let said = [0, 1].map(|more| {
        let value = vec![b'x'; MAX_SIZE + more];
        of(&spec, &[&value, b"y"]).unwrap_err().to_string()
    });
    assert_eq!(said[0], said[1], "padding would tell how long a value is");
}

#[test]
fn a_path_is_followed_to_a_bounded_depth() {
    // As large as AWS keeps it and as deep as that gets: each step costs what is left of the value.
    let depth = 10_000;
    let value = format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    assert!(property(&value, &["a"; 100].join(".")).unwrap().ends_with('}'));
    let error = property(&value, &["a"; 1024].join(".")).unwrap_err();
    assert_eq!(error.reason(), Reason::PropertyNotFound);
}

#[test]
fn a_secret_key_that_kubernetes_refuses_is_a_fault_of_the_spec() {
    let error = of(&spec(&[], &[("..a", None)]), &[b"canary"]).unwrap_err();
    assert_eq!(error.reason(), Reason::InvalidSpec);
    assert!(error.to_string().starts_with("data[0]: secretKey "));
}

#[test]
fn debug_shows_no_value() {
    let built = of(&spec(&[None], &[]), &[br#"{"canary": "canary"}"#]).unwrap();
    assert_eq!(
        format!("{built:?}"),
        "Built { keys: 1, dropped_empty_keys: 0, gone: [] }"
    );
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".*".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::btree_map("[a-c.]{0,3}", inner, 0..6)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn rendering_is_deterministic_and_never_panics(
        value in prop_oneof![
            json().prop_map(|value| value.to_string().into_bytes()),
            prop::collection::vec(any::<u8>(), 0..64),
        ],
        path in "[a-c.0-9\\\\]{0,6}",
    ) {
        let spec = spec(&[None, Some(&path)], &[("k", Some(&path)), ("l", None)]);
        let once = of(&spec, &[&value, &value, &value, &value]);
        let twice = of(&spec, &[&value, &value, &value, &value]);
        match (once, twice) {
            (Ok(once), Ok(twice)) => {
                prop_assert_eq!(&once.data, &twice.data);
                prop_assert_eq!(once.dropped_empty_keys, twice.dropped_empty_keys);
            }
            (Err(once), Err(twice)) => prop_assert_eq!(once, twice),
            _ => prop_assert!(false, "once so, once so"),
        }
    }

    #[test]
    fn what_is_kept_of_a_value_makes_what_the_whole_makes(
        value in prop_oneof![
            json().prop_map(|value| value.to_string().into_bytes()),
            prop::collection::vec(any::<u8>(), 0..64),
        ],
        paths in prop::collection::vec("[a-c.0-9]{1,4}", 1..4),
    ) {
        let data: Vec<_> = ["k", "l", "m"].into_iter().zip(paths.iter().map(|path| Some(path.as_str()))).collect();
        let spec = spec(&[Some(&paths[0])], &data);
        let whole = build(&spec, |_| Fetched::Value(&value));
        let kept: Vec<_> = spec.entries().map(|entry| part(&value, entry.remote.property().unwrap())).collect();
        let parts = build(&spec, |index| Fetched::Part(kept[index].as_ref().map(|part| part.as_slice())));
        match (whole, parts) {
            (Ok(whole), Ok(parts)) => prop_assert_eq!(whole.data, parts.data),
            (Err(whole), Err(parts)) => prop_assert_eq!(whole, parts),
            _ => prop_assert!(false, "one can be built, one cannot"),
        }
    }

    #[test]
    fn a_member_survives_by_property_and_by_extract(text in ".*", number in any::<i64>()) {
        let value = serde_json::json!({"text": text, "number": number}).to_string();
        prop_assert_eq!(property(&value, "text").unwrap(), text.clone());
        prop_assert_eq!(property(&value, "number").unwrap(), number.to_string());
        let members = extract(&value).unwrap();
        prop_assert_eq!(members, [("number".to_owned(), number.to_string()), ("text".to_owned(), text)]);
    }
}
