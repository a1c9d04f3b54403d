//! The versions annotation: of each remote secret, by the hash of its store, key and stage, the version that was read.

use std::collections::BTreeMap;

use super::{answers::Answer, references::ReadRequest};
use crate::{
    api::{Reason, names::annotation},
    sync::resolve::Refusal,
};

/// What an edited annotation holds instead of JSON counts as nothing: everything is read again.
pub fn parse(annotation: Option<&str>) -> BTreeMap<String, String> {
    annotation
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// The annotation's text.
pub fn json(versions: &BTreeMap<String, String>) -> String {
    serde_json::to_string(versions).unwrap_or_default()
}

/// What is written of these answers.
pub fn of(needs: &[ReadRequest], answers: &[Answer]) -> Result<String, Refusal> {
    let versions = needs
        .iter()
        .zip(answers)
        .filter_map(|(need, answer)| Some((need.hash.clone(), answer.value()?.version.0.to_string())));
    let versions = json(&versions.collect());
    if versions.len() > annotation::VERSIONS_LIMIT {
        return Err(Refusal::new(
            Reason::TooLarge,
            format!(
                "the versions of {} entries need {} bytes in annotation {}, which takes {}: split the ExternalSecret",
                needs.len(),
                versions.len(),
                annotation::VERSIONS,
                annotation::VERSIONS_LIMIT
            ),
        ));
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::{super::answers::EntryValue, *};
    use crate::{
        api::{Selector, SourceId, VersionId},
        aws::RemoteValue,
    };

    fn need(hash: &str) -> ReadRequest {
        ReadRequest {
            source: SourceId(0),
            key: "prod/db".into(),
            selector: Selector::parse(None),
            hash: hash.to_owned(),
            recorded: None,
            absent: false,
        }
    }

    fn answer(version: &str) -> Answer {
        let version = VersionId(version.into());
        let value = RemoteValue::new("arn", "prod/db", version, b"hunter2".to_vec());
        Answer::Value(EntryValue::whole(value))
    }

    fn written(needs: &[ReadRequest], answers: &[Answer]) -> String {
        of(needs, answers).unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    #[test]
    fn versions_are_read_back_as_they_were_written() {
        let needs = ["b", "a", "gone"].map(need);
        let text = written(
            &needs,
            &[answer("v1"), answer("v2"), Answer::Gone { deleted: false }],
        );
        assert_eq!(text, r#"{"a":"v2","b":"v1"}"#);
        let read = parse(Some(&text));
        assert_eq!(read.len(), 2);
        assert_eq!(read.get("b").map(String::as_str), Some("v1"));
        assert_eq!(json(&read), text);
    }

    #[test]
    fn what_is_no_record_of_versions_counts_as_none() {
        for text in [
            None,
            Some(""),
            Some("{"),
            Some("[]"),
            Some("null"),
            Some(r#"{"a":1}"#),
        ] {
            assert!(parse(text).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn a_record_that_the_annotation_cannot_hold_is_too_large() {
        // The braces, and per entry two pairs of quotes and a colon.
        let longest = "v".repeat(annotation::VERSIONS_LIMIT - 2 - 5 - 1);
        let text = written(&[need("h")], &[answer(&longest)]);
        assert_eq!(text.len(), annotation::VERSIONS_LIMIT);

        let refusal = of(&[need("hh")], &[answer(&longest)]).unwrap_err();
        assert_eq!(refusal.reason, Reason::TooLarge);
        assert!(refusal.message.contains("keyturn.dev/versions"), "{refusal}");
        assert!(!refusal.message.contains("vvv"));
    }
}
