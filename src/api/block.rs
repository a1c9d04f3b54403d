//! Blocks of a spec that are read leniently: an error in one of their fields must not stop what the rest of the spec asks for.

use serde::{Deserialize as _, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::Invalid;

/// The most characters of an error that are kept: errors quote what was written.
const LONGEST: usize = 200;

/// A part of a spec whose errors are its own.
pub(super) trait Block: DeserializeOwned + Default {
    /// Its path.
    const PATH: &'static str;

    /// Notes the first field that could not be read.
    fn unreadable(&mut self, invalid: Invalid);
}

/// Reads a block. Fields of another form or with unknown values are left out, and the first of them is noted: an older
/// version of the schema, or a newer one, may have let them pass.
pub(super) fn lenient<'de, B: Block, D: Deserializer<'de>>(deserializer: D) -> Result<Option<B>, D::Error> {
    let Some(value) = Option::<Value>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let error = match B::deserialize(&value) {
        Ok(block) => return Ok(Some(block)),
        Err(error) => error,
    };
    let mut first = None;
    let mut readable = Map::new();
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            let alone = Value::Object(Map::from_iter([(name.clone(), value.clone())]));
            if let Err(error) = B::deserialize(&alone) {
                first.get_or_insert_with(|| (format!("{}.{name}", B::PATH), error));
            } else {
                readable.insert(name, value);
            }
        }
    }
    let (path, error) = first.unwrap_or_else(|| (B::PATH.to_owned(), error));
    let mut block = B::deserialize(&Value::Object(readable)).unwrap_or_default();
    block.unreadable(Invalid {
        path,
        message: format!("cannot be read ({}): correct it", excerpt(&error.to_string())),
    });
    Ok(Some(block))
}

/// The beginning of an error, without control characters.
fn excerpt(error: &str) -> String {
    error
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::api::{ExternalSecretSpec, RestartMode};

    fn spec(restart: &serde_json::Value) -> ExternalSecretSpec {
        serde_json::from_value(json!({"restart": restart})).unwrap()
    }

    #[test]
    fn what_cannot_be_read_of_a_block_is_named_and_the_rest_is_read() {
        for (restart, path) in [
            (json!({"mode": "Automtic"}), "spec.restart.mode"),
            (json!({"pacing": {"maxConcurrent": "two"}}), "spec.restart.pacing"),
            (json!({"pacing": {"maxConcurrent": -1}}), "spec.restart.pacing"),
            (
                json!({"mode": "Manual", "windows": [{"cron": "* * * * *"}]}),
                "spec.restart.windows",
            ),
            (
                json!({"mode": "Manual", "targets": [{"kind": "Job"}], "windows": 1}),
                "spec.restart.targets",
            ),
            (json!("Automatic"), "spec.restart"),
        ] {
            let spec = spec(&restart);
            let invalid = spec.validate_restart().unwrap_err();
            assert_eq!(invalid.path, path, "{restart}");
            let mode = spec.restart.unwrap().mode;
            let expected = (restart["mode"] == "Manual").then_some(RestartMode::Manual);
            assert_eq!(mode, expected, "{restart}");
        }
        let rotation = json!({"rotation": {"strategy": "Twice", "pendingTimeout": "1h"}});
        let spec: ExternalSecretSpec = serde_json::from_value(rotation).unwrap();
        assert_eq!(
            spec.validate_rotation().unwrap_err().path,
            "spec.rotation.strategy"
        );
        assert_eq!(spec.rotation.unwrap().pending_timeout.as_deref(), Some("1h"));
    }

    #[test]
    fn what_is_absent_or_good_is_read_as_ever() {
        for restart in [json!(null), json!({}), json!({"mode": "Manual", "unknown": 1})] {
            let spec = spec(&restart);
            assert_eq!(spec.validate_restart(), Ok(()), "{restart}");
            assert_eq!(spec.restart.is_none(), restart.is_null());
        }
    }

    #[test]
    fn an_error_quotes_little_and_no_control_characters() {
        let spec = spec(&json!({"mode": format!("\u{1b}{}", "x".repeat(1000))}));
        let message = spec.validate_restart().unwrap_err().message;
        assert!(
            message.len() < 300 && !message.contains(char::is_control),
            "{message:?}"
        );
    }
}
