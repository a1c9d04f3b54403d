//! What AWS recorded: who read what, and what it cost.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use testbed::aws::Calls;

use super::{INTERVAL, SYNCED};
use crate::terminal::{Terminal, seconds, table};

/// Who read which secret; nobody but its owner did.
pub(super) fn who_read_what(
    terminal: &mut Terminal,
    arns: &BTreeMap<&str, String>,
    calls: &Calls,
) -> Result<()> {
    terminal.step("Who read what, as AWS recorded it");
    let mut rows = vec![vec!["SECRET".to_owned(), "READ BY".to_owned()]];
    for (secret, arn) in arns {
        let readers = calls.readers_of(arn);
        let tenant = if secret.contains("shop") { "shop" } else { "bank" };
        let own = if secret.starts_with("k8s/") {
            "keyturn-keyturn"
        } else {
            tenant
        };
        for reader in &readers {
            ensure!(
                reader.contains(&format!("assumed-role/{own}/")),
                "{reader} read {secret}"
            );
        }
        let readers: Vec<&str> = readers
            .iter()
            .map(|reader| reader.rsplit(':').next().unwrap_or(reader))
            .collect();
        rows.push(vec![(*secret).to_owned(), readers.join(", ")]);
    }
    terminal.show(&table(&rows));
    Ok(())
}

/// The calls by operation and role, beside a `GetSecretValue` for each entry and interval.
pub(super) fn bill(terminal: &mut Terminal, calls: &Calls, time: Duration) -> Result<()> {
    terminal.step("What it cost");
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for call in calls.requests() {
        let who = call.role.as_deref().unwrap_or(&call.principal);
        let who = who.rsplit('/').next().unwrap_or_default().to_owned();
        *counts.entry((call.operation.clone(), who)).or_default() += 1;
    }
    let mut rows = vec![["OPERATION", "ROLE", "CALLS"].map(ToOwned::to_owned).to_vec()];
    for ((operation, role), count) in &counts {
        rows.push(vec![operation.clone(), role.clone(), count.to_string()]);
    }
    terminal.show(&table(&rows));
    let secrets_manager: u64 = counts
        .iter()
        .filter(|((operation, _), _)| !operation.starts_with("Assume") && operation != "GetCallerIdentity")
        .map(|(_, count)| count)
        .sum();
    let entries: u64 = SYNCED.iter().map(|(_, _, entries)| entries).sum();
    let rounds = 1 + time.as_secs() / INTERVAL.as_secs();
    let plain = entries * rounds;
    terminal.say(&format!(
        "{secrets_manager} calls to Secrets Manager in {}, the denied ones included. One GetSecretValue for each of the",
        seconds(time)
    ));
    terminal.show(&format!(
        "{entries} entries that are synced, every {} s, would have been {plain}. Up to 20 secrets of an identity share a call,\n\
         and what is shared is read once: make bench shows it for thousands.",
        INTERVAL.as_secs()
    ));
    ensure!(
        secrets_manager < plain,
        "{secrets_manager} calls are not fewer than the {plain} of reading every entry at every interval"
    );
    Ok(())
}
