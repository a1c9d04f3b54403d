//! The report as text for a terminal. Pure.

use jiff::{SignedDuration, Timestamp};

use super::{
    report::{Counts, Finding, FindingKind, OperatorState, Report},
    stores::StoreCounts,
};

/// How many of the further ExternalSecrets with one cause are named.
const NAMED: usize = 3;

/// The report; what a person must see first comes first.
pub(super) fn table(report: &Report) -> String {
    let Report {
        time,
        verdict: _,
        operator,
        control,
        counts,
        stores,
        findings,
    } = report;
    let mark = match operator.state {
        OperatorState::Running => "operator: ",
        OperatorState::Silent | OperatorState::Vacant | OperatorState::Missing | OperatorState::Unknown => {
            "WARNING: "
        }
    };
    let mut text = format!("{mark}{}\n", clean(&operator.message));
    if let Some(control) = control {
        let mark = if control.sync || control.restarts {
            "HELD UP"
        } else {
            "WARNING"
        };
        text.extend([mark, ": ", &clean(&control.message), "\n"]);
    }
    if !findings.is_empty() {
        let head = ["NAMESPACE", "NAME", "WHAT", "SINCE", "WHY"].map(str::to_owned);
        let rows: Vec<[String; 5]> = std::iter::once(head)
            .chain(findings.iter().map(|finding| row(*time, finding)))
            .collect();
        text.push('\n');
        text += &aligned(&rows);
        text.push('\n');
    }
    text += &summary(counts);
    text += &summary_of_stores(stores);
    text
}

fn row(now: Timestamp, finding: &Finding) -> [String; 5] {
    let Finding {
        namespace,
        name,
        what,
        attention: _,
        store,
        affected,
        workload,
        reason,
        since,
        until,
        message,
    } = finding;
    let what = match (what, workload) {
        (FindingKind::Workload, Some(workload)) => workload.as_str(),
        (what, _) => match store {
            // The name stands in its own column.
            Some(store) => store.split(' ').next().unwrap_or(store),
            None => what.as_str(),
        },
    };
    let namespace = if namespace.is_empty() { "-" } else { namespace };
    let since = since.map_or_else(|| "-".to_owned(), |since| age(now.duration_since(since)));
    // The column before says the reason where it is the same word.
    let mut why = if reason == what && !message.is_empty() {
        String::new()
    } else {
        reason.clone()
    };
    if !why.is_empty() && !message.is_empty() {
        why += ": ";
    }
    why += message;
    if !affected.is_empty() {
        let word = if store.is_some() { "affects" } else { "also" };
        let named: Vec<&str> = affected.iter().take(NAMED).map(String::as_str).collect();
        why = format!("{}; {word} {}", why.trim_end_matches('.'), named.join(", "));
        let more = affected.len().saturating_sub(NAMED);
        if more > 0 {
            why = format!("{why} and {more} more");
        }
    }
    if let Some(until) = until {
        why = format!("{why} (until {until:.0})");
    }
    [clean(namespace), clean(name), clean(what), since, clean(&why)]
}

fn summary(counts: &Counts) -> String {
    let Counts {
        external_secrets,
        synced,
        not_ready,
        stale,
        suspended,
        rotating,
        restarting,
        unreadable,
    } = counts;
    let mut text = format!(
        "{external_secrets} ExternalSecrets: {synced} synced, {not_ready} not ready, {stale} stale, \
         {suspended} suspended, {rotating} rotating, {restarting} restarting"
    );
    if *unreadable > 0 {
        text.extend([", ", &unreadable.to_string(), " that this version cannot read"]);
    }
    text.push('\n');
    text
}

fn summary_of_stores(counts: &StoreCounts) -> String {
    let StoreCounts {
        stores,
        ready,
        not_ready,
        unlisted,
    } = counts;
    let mut text = format!("{stores} stores: {ready} ready, {not_ready} not ready");
    if !unlisted.is_empty() {
        text = format!("{text}; you may not list {}", unlisted.join(" and "));
    }
    text.push('\n');
    text
}

/// Columns as wide as their longest cell, but for the last one.
fn aligned(rows: &[[String; 5]]) -> String {
    let mut widths = [0; 4];
    for [columns @ .., _] in rows {
        for (width, cell) in widths.iter_mut().zip(columns) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    // The last column is the longest sentence of all: padding it would break lines on every terminal.
    for [columns @ .., last] in rows {
        for (cell, width) in columns.iter().zip(widths) {
            let gap = width.saturating_sub(cell.chars().count()) + 3;
            text += cell;
            text += &" ".repeat(gap);
        }
        text += last;
        while text.ends_with(' ') {
            text.pop();
        }
        text.push('\n');
    }
    text
}

/// As kubectl prints ages.
fn age(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Whether a character turns the direction of what follows, so that a line reads as another one.
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The longest text of a cell, in characters: of what somebody wrote into a status there may be any amount.
const CELL: usize = 2048;

/// Statuses can be written by others: what steers a terminal is not passed on.
fn clean(text: &str) -> String {
    text.chars()
        .take(CELL)
        .map(|c| if c.is_control() || turns(c) { ' ' } else { c })
        .collect()
}
