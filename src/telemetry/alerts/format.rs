//! The forms in which receivers take an alert.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Alert, MESSAGE};

/// For how long Alertmanager counts an alert as firing. It is sent once, and nothing tells when a person has acted.
const FIRING: SignedDuration = SignedDuration::from_hours(1);

/// What the receiver takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AlertFormat {
    /// A JSON object with the fields of [`Alert`].
    #[default]
    Keyturn,
    /// A list for `/api/v2/alerts` of Prometheus Alertmanager.
    Alertmanager,
    /// A message for an incoming webhook of Slack, which Mattermost and Rocket.Chat take too.
    Slack,
}

impl AlertFormat {
    /// The body of the POST.
    pub(super) fn body(self, alert: &Alert) -> Vec<u8> {
        let mut short = alert.clone();
        let end = short.message.floor_char_boundary(MESSAGE);
        short.message.truncate(end);
        match self {
            Self::Keyturn => bytes(&short),
            Self::Alertmanager => bytes(&alertmanager(&short)),
            Self::Slack => bytes(&slack(&short)),
        }
    }
}

/// Strings and times: this cannot fail, and an empty body is refused by whoever reads it.
fn bytes(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

fn alertmanager(alert: &Alert) -> Value {
    let Alert {
        reason,
        kind,
        namespace,
        name,
        message,
        time,
        cluster,
    } = alert;
    let ends = time.saturating_add(FIRING).unwrap_or(Timestamp::MAX);
    let labels = [
        ("alertname", reason),
        ("cluster", cluster),
        ("kind", kind),
        ("name", name),
        ("namespace", namespace),
    ];
    // Alertmanager refuses an alert with an empty label.
    let mut labels: serde_json::Map<String, Value> = labels
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(label, value)| (label.to_owned(), json!(value)))
        .collect();
    labels.insert("service".to_owned(), json!("keyturn"));
    labels.insert("severity".to_owned(), json!("warning"));
    json!([{
        "labels": labels,
        "annotations": {"summary": message},
        "startsAt": format!("{time:.0}"),
        "endsAt": format!("{ends:.0}"),
    }])
}

fn slack(alert: &Alert) -> Value {
    let Alert {
        reason,
        kind,
        namespace,
        name,
        message,
        time: _,
        cluster,
    } = alert;
    let place = if namespace.is_empty() {
        name.clone()
    } else {
        format!("{namespace}/{name}")
    };
    let cluster = if cluster.is_empty() {
        String::new()
    } else {
        format!(" in cluster {cluster}")
    };
    let text = escaped(&format!("{kind} {place}{cluster}: {message}"));
    json!({"text": format!("*{reason}* {text}")})
}

/// Nothing in it is a link or mentions anybody.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert() -> Alert {
        Alert {
            reason: "RestartFailed".into(),
            kind: "ExternalSecret".into(),
            namespace: "shop".into(),
            name: "db".into(),
            message: "Deployment api: <!channel> & more".into(),
            time: "2026-11-23T20:00:00.9Z".parse().unwrap(),
            cluster: "prod".into(),
        }
    }

    fn sent(format: AlertFormat, alert: &Alert) -> Value {
        serde_json::from_slice(&format.body(alert)).unwrap()
    }

    #[test]
    fn alertmanager_gets_labels_and_times_of_an_alert_that_ends() {
        assert_eq!(
            sent(AlertFormat::Alertmanager, &alert()),
            json!([{
                "labels": {"alertname": "RestartFailed", "cluster": "prod", "kind": "ExternalSecret", "name": "db",
                    "namespace": "shop", "service": "keyturn", "severity": "warning"},
                "annotations": {"summary": "Deployment api: <!channel> & more"},
                "startsAt": "2026-11-23T20:00:00Z",
                "endsAt": "2026-11-23T21:00:00Z",
            }])
        );
        let of_cluster = Alert {
            namespace: String::new(),
            ..alert()
        };
        let labels = &sent(AlertFormat::Alertmanager, &of_cluster)[0]["labels"];
        assert_eq!(labels.get("namespace"), None);
    }

    #[test]
    fn slack_gets_a_text_that_mentions_nobody() {
        assert_eq!(
            sent(AlertFormat::Slack, &alert()),
            json!({"text": "*RestartFailed* ExternalSecret shop/db in cluster prod: Deployment api: &lt;!channel&gt; &amp; more"})
        );
        let of_cluster = Alert {
            namespace: String::new(),
            cluster: String::new(),
            ..alert()
        };
        let text = sent(AlertFormat::Slack, &of_cluster)["text"].to_string();
        assert!(text.contains("ExternalSecret db: Deployment"), "{text}");
    }

    #[test]
    fn a_long_message_is_cut_in_every_form() {
        let long = Alert {
            message: "\u{e9}".repeat(MESSAGE),
            ..alert()
        };
        for format in [
            AlertFormat::Keyturn,
            AlertFormat::Alertmanager,
            AlertFormat::Slack,
        ] {
            let text = String::from_utf8(format.body(&long)).unwrap();
            assert_eq!(text.matches('\u{e9}').count(), MESSAGE / 2, "{format:?}");
        }
    }
}
