//! What others have changed of a Secret: who, and which keys. Pure.

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::api::{
    caps::{self, capped},
    names::SYNC_MANAGER,
};

/// How many keys a note names.
const NAMED: usize = 10;

/// The field manager other than Keyturn that last changed the Secret, as far as the Secret says.
pub fn contender(live: &Secret) -> Option<Box<str>> {
    let others = live.metadata.managed_fields.iter().flatten();
    others
        .filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty())
        .filter_map(|entry| Some((entry.time.as_ref()?.0, entry.manager.as_deref()?)))
        .filter(|(_, manager)| *manager != SYNC_MANAGER)
        .max_by_key(|(time, _)| *time)
        .map(|(_, manager)| capped(manager, caps::NAME))
}

/// What a patch repairs of the data, in words. Keys are named where `is_public` holds and counted else: the name of a key may
/// come out of a value.
pub fn repaired(patch: &Value, is_public: impl Fn(&str) -> bool) -> String {
    let data = patch.get("data").and_then(Value::as_object);
    let (mut named, mut restored, mut removed) = (Vec::new(), 0, 0);
    for (key, value) in data.into_iter().flatten() {
        if value.is_null() {
            removed += 1;
        } else if is_public(key) && named.len() < NAMED {
            named.push(key.as_str());
        } else {
            restored += 1;
        }
    }
    let mut sentences = Vec::new();
    if !named.is_empty() || restored > 0 {
        let counted = (restored > 0).then(|| {
            let more = if named.is_empty() { "" } else { "more " };
            format!("{restored} {more}{}", keys(restored))
        });
        let parts: Vec<_> = named.into_iter().map(str::to_owned).chain(counted).collect();
        sentences.push(format!("Restored: {}.", parts.join(", ")));
    }
    if removed > 0 {
        sentences.push(format!(
            "Removed: {removed} {} that others had added.",
            keys(removed)
        ));
    }
    sentences.join(" ")
}

fn keys(count: usize) -> &'static str {
    if count == 1 { "key" } else { "keys" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_repair_names_the_keys_of_the_spec_and_counts_all_others() {
        let public = |key: &str| key.starts_with("pass");
        for (data, expected) in [
            (json!({"password": "c2VjcmV0"}), "Restored: password."),
            (
                json!({"password": "c2VjcmV0", "from-template": "c2VjcmV0"}),
                "Restored: password, 1 more key.",
            ),
            (json!({"a": "YQ==", "b": "Yg=="}), "Restored: 2 keys."),
            (json!({"a": null}), "Removed: 1 key that others had added."),
            (
                json!({"password": "c2VjcmV0", "a": null, "b": null}),
                "Restored: password. Removed: 2 keys that others had added.",
            ),
        ] {
            assert_eq!(repaired(&json!({"data": data}), public), expected);
        }
        let many: serde_json::Map<_, _> = (0..30).map(|n| (format!("pass{n}"), json!("YQ=="))).collect();
        let note = repaired(&json!({"data": many}), public);
        assert!(note.ends_with(", 20 more keys."), "{note}");
    }

    #[test]
    fn the_contender_is_the_last_other_field_manager() {
        let secret = |entries: serde_json::Value| -> Secret {
            serde_json::from_value(json!({"metadata": {"name": "db", "managedFields": entries}})).unwrap()
        };
        let entry =
            |manager: &str, time: &str| json!({"manager": manager, "operation": "Update", "time": time});
        let live = secret(json!([
            entry("older", "2026-11-03T10:00:00Z"),
            entry("other-controller", "2026-11-03T11:00:00Z"),
            entry(SYNC_MANAGER, "2026-11-03T12:00:00Z"),
        ]));
        assert_eq!(contender(&live).as_deref(), Some("other-controller"));
        assert_eq!(
            contender(&secret(json!([entry(SYNC_MANAGER, "2026-11-03T12:00:00Z")]))),
            None
        );
        assert_eq!(contender(&secret(json!(null))), None);
    }
}
