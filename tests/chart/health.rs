//! The health script for Argo CD, run by the Lua that Argo CD speaks: 5.1.

#![expect(clippy::unwrap_used, reason = "tests fail by a panic")]

use std::fs;

use keyturn::api::{ConditionType, Reason, Status};
use mlua::{Lua, Table, Value as LuaValue};
use serde_json::{Value, json};

fn script() -> String {
    fs::read_to_string(super::root().join("deploy/argocd/health.lua")).unwrap()
}

/// JSON as Argo CD hands it to scripts.
fn to_lua(lua: &Lua, value: &Value) -> mlua::Result<LuaValue> {
    Ok(match value {
        Value::Null => LuaValue::Nil,
        Value::Bool(is) => LuaValue::Boolean(*is),
        Value::Number(number) => LuaValue::Number(number.as_f64().unwrap()),
        Value::String(text) => LuaValue::String(lua.create_string(text)?),
        Value::Array(items) => {
            let items: mlua::Result<Vec<_>> = items.iter().map(|item| to_lua(lua, item)).collect();
            LuaValue::Table(lua.create_sequence_from(items?)?)
        }
        Value::Object(fields) => {
            let table = lua.create_table()?;
            for (name, value) in fields {
                table.set(name.as_str(), to_lua(lua, value)?)?;
            }
            LuaValue::Table(table)
        }
    })
}

/// The health of an object: its status and its message.
fn health(object: &Value) -> (String, String) {
    let lua = Lua::new();
    lua.globals().set("obj", to_lua(&lua, object).unwrap()).unwrap();
    let health: Table = lua.load(script()).eval().unwrap();
    (health.get("status").unwrap(), health.get("message").unwrap())
}

fn object(status: Option<Value>) -> Value {
    let mut object = json!({
        "apiVersion": "keyturn.dev/v1", "kind": "ExternalSecret",
        "metadata": {"name": "db", "namespace": "shop", "generation": 2}, "spec": {},
    });
    if let Some(status) = status {
        object["status"] = status;
    }
    object
}

fn condition(type_: ConditionType, status: &str, reason: Reason) -> Value {
    json!({
        "type": type_.as_str(), "status": status, "reason": reason.as_str(), "message": format!("why {reason}"),
        "observedGeneration": 2, "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

fn said(conditions: &[Value]) -> Value {
    object(Some(json!({"observedGeneration": 2, "conditions": conditions})))
}

#[test]
fn lua_is_the_one_that_argo_cd_speaks() {
    let version: String = Lua::new().load("return _VERSION").eval().unwrap();
    assert_eq!(version, "Lua 5.1");
}

#[test]
fn health_follows_ready() {
    use ConditionType::Ready;
    for (status, reason, expected) in [
        ("True", Reason::Synced, "Healthy"),
        ("True", Reason::Retained, "Healthy"),
        ("True", Reason::Unrestricted, "Healthy"),
        ("False", Reason::Throttled, "Progressing"),
        ("False", Reason::ProviderUnavailable, "Progressing"),
        ("False", Reason::StoreNotFound, "Progressing"),
        ("False", Reason::StoreNotReady, "Progressing"),
        ("False", Reason::AccessDenied, "Degraded"),
        ("False", Reason::SecretNotFound, "Degraded"),
        ("False", Reason::InvalidSpec, "Degraded"),
        ("Unknown", Reason::StoreNotReady, "Progressing"),
    ] {
        let found = health(&said(&[condition(Ready, status, reason)]));
        assert_eq!(
            found,
            (expected.to_owned(), format!("why {reason}")),
            "{status} {reason}"
        );
    }
}

#[test]
fn every_reason_for_not_being_ready_is_waited_for_or_mended() {
    let not_ready = |reason: &&Reason| reason.status(ConditionType::Ready) == Some(Status::False);
    for reason in Reason::ALL.iter().filter(not_ready) {
        let (found, _) = health(&said(&[condition(ConditionType::Ready, "False", *reason)]));
        assert!(
            ["Progressing", "Degraded"].contains(&&*found),
            "{reason}: {found}"
        );
    }
}

#[test]
fn what_is_not_said_yet_is_waited_for() {
    let ready = condition(ConditionType::Ready, "True", Reason::Synced);
    for (what, object) in [
        ("no status", object(None)),
        ("an empty status", object(Some(json!({})))),
        ("no conditions", object(Some(json!({"observedGeneration": 2})))),
        ("an empty list", said(&[])),
        (
            "another condition only",
            said(&[condition(ConditionType::Current, "True", Reason::Checked)]),
        ),
        (
            "the default of the definitions",
            object(Some(json!({"observedGeneration": -1}))),
        ),
        (
            "restarts only",
            object(Some(json!({"observedGeneration": -1, "conditions": [
                condition(ConditionType::RestartsComplete, "True", Reason::NothingPending)
            ]}))),
        ),
        (
            "an earlier spec",
            object(Some(json!({"observedGeneration": 1, "conditions": [ready]}))),
        ),
    ] {
        let expected = ("Progressing".to_owned(), "Waiting for Keyturn".to_owned());
        assert_eq!(health(&object), expected, "{what}");
    }
}

#[test]
fn a_suspended_object_is_suspended_whatever_else_is_said_of_it() {
    let suspended = condition(ConditionType::Current, "False", Reason::Suspended);
    for (ready, reason) in [
        ("True", Reason::Synced),
        ("False", Reason::AccessDenied),
        ("False", Reason::StoreNotFound),
    ] {
        for generation in [-1, 1, 2] {
            let conditions = [condition(ConditionType::Ready, ready, reason), suspended.clone()];
            let object = object(Some(
                json!({"observedGeneration": generation, "conditions": conditions}),
            ));
            assert_eq!(
                health(&object),
                ("Suspended".to_owned(), "why Suspended".to_owned())
            );
        }
    }
}

#[test]
fn a_store_is_suspended_until_its_time_and_degraded_where_it_is_broken() {
    let store = |kind: &str, until: Option<&str>, status: Value| {
        let mut store = object(Some(status));
        store["kind"] = kind.into();
        if let Some(until) = until {
            store["metadata"]["annotations"] = json!({"keyturn.dev/suspend-sync-until": until});
        }
        store
    };
    let said = |status: &str, reason: Reason| {
        let ready = condition(ConditionType::Ready, status, reason);
        json!({"observedGeneration": 2, "conditions": [ready]})
    };
    let (valid, broken) = (said("True", Reason::Valid), said("False", Reason::IdentityError));
    let (past, future) = (Some("2020-01-01T00:00:00Z"), Some("2999-01-01T00:00:00Z"));
    for kind in ["SecretStore", "ClusterSecretStore"] {
        for (until, status, expected) in [
            (None, &valid, "Healthy"),
            (past, &valid, "Healthy"),
            (future, &valid, "Suspended"),
            (None, &broken, "Degraded"),
            (past, &broken, "Degraded"),
            (future, &broken, "Suspended"),
            (None, &json!({"observedGeneration": -1}), "Progressing"),
            (future, &json!({"observedGeneration": -1}), "Suspended"),
        ] {
            let found = health(&store(kind, until, status.clone()));
            assert_eq!(found.0, expected, "{kind} {until:?} {status}");
        }
    }
}

/// Argo CD opens no other libraries, and `os` only by `require`.
#[test]
fn the_health_script_uses_no_library_but_time() {
    let script = script();
    for library in ["string.", "table.", "math.", "io.", ":match", ":gsub", ":sub"] {
        assert!(!script.contains(library), "{library}");
    }
}

#[test]
fn other_conditions_neither_heal_nor_harm() {
    use ConditionType::{Current, Ready, RestartsComplete, RotationHealthy};
    for (ready, expected) in [
        (condition(Ready, "True", Reason::Synced), "Healthy"),
        (condition(Ready, "False", Reason::AccessDenied), "Degraded"),
    ] {
        for others in [
            [
                condition(RotationHealthy, "False", Reason::RotationStuck),
                condition(RestartsComplete, "False", Reason::Halted),
                condition(Current, "False", Reason::Stale),
            ],
            [
                condition(RotationHealthy, "True", Reason::Idle),
                condition(RestartsComplete, "True", Reason::Complete),
                condition(Current, "True", Reason::Checked),
            ],
        ] {
            // In whatever order they stand.
            for place in 0..=others.len() {
                let mut all = others.to_vec();
                all.insert(place, ready.clone());
                assert_eq!(health(&said(&all)).0, expected, "{all:?}");
            }
        }
    }
}

#[test]
fn the_health_script_knows_the_reasons_that_the_operator_gives() {
    let script = script();
    let waiting: Vec<_> = script
        .lines()
        .filter_map(|line| line.trim().strip_suffix(" = true,"))
        .collect();
    assert!(!waiting.is_empty());
    for word in waiting {
        let reason = Reason::ALL.iter().find(|reason| reason.as_str() == word);
        let status = reason.and_then(|reason| reason.status(ConditionType::Ready));
        assert_eq!(status, Some(Status::False), "{word}");
    }
}
