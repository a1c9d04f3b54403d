//! The two forms in which metrics are served. Pure.
//!
//! `prometheus-client` writes OpenMetrics 1.0 only. Agents that do not ask for it read Prometheus' plain text, in which a
//! family is called what its samples are called.

use std::collections::BTreeMap;

/// The form of a page of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus' text format 0.0.4: what everything reads.
    PlainText,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The media type of an answer.
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::PlainText => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The form that these values of `Accept` prefer. `OpenMetrics` only where it is named.
    pub(super) fn accepted<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut plain, mut open) = (None, None);
        for range in accept.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1.0, "1.0.0");
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = value.parse().unwrap_or(0.0),
                    "version" => version = value,
                    _ => {}
                }
            }
            let of = match media.as_str() {
                "application/openmetrics-text" if version == "1.0.0" => &mut open,
                "text/plain" => &mut plain,
                _ => continue,
            };
            *of = Some(of.map_or(quality, |other: f32| other.max(quality)));
        }
        match open {
            Some(open) if open > 0.0 && plain.is_none_or(|plain| open >= plain) => Self::OpenMetrics,
            _ => Self::PlainText,
        }
    }
}

/// A page of OpenMetrics as Prometheus' plain text.
pub(super) fn plain_text(open_metrics: &str) -> String {
    let kinds: BTreeMap<&str, &str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let family = |name: &str| match kinds.get(name) {
        Some(&"counter") => format!("{name}_total"),
        Some(&"info") => format!("{name}_info"),
        _ => name.to_owned(),
    };
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let line = if let Some((name, help)) = described(line, "# HELP ") {
            // Quotes are escaped in OpenMetrics only.
            format!("# HELP {} {}", family(name), help.replace("\\\"", "\""))
        } else if let Some((name, kind)) = described(line, "# TYPE ") {
            let kind = match kind {
                "info" | "stateset" => "gauge",
                "unknown" => "untyped",
                "gaugehistogram" => "histogram",
                kind => kind,
            };
            format!("# TYPE {} {kind}", family(name))
        } else if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        } else {
            line.to_owned()
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn described<'a>(line: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(keyword)?.split_once(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_served_to_those_that_ask_for_it() {
        // What Prometheus 2.53 and 3 send, and agents that know the plain text only.
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;\
                          q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            (&[][..], Format::PlainText),
            (&["*/*"], Format::PlainText),
            (&["text/plain"], Format::PlainText),
            (&["text/plain;version=0.0.4;q=0.9, */*;q=0.1"], Format::PlainText),
            (&["application/json"], Format::PlainText),
            (&[prometheus], Format::OpenMetrics),
            (&["application/openmetrics-text"], Format::OpenMetrics),
            (
                &["Application/OpenMetrics-Text; Version=1.0.0; q=1"],
                Format::OpenMetrics,
            ),
            (
                &["text/plain;q=0.2", "application/openmetrics-text;q=0.3"],
                Format::OpenMetrics,
            ),
            (
                &["text/plain;q=0.4", "application/openmetrics-text;q=0.3"],
                Format::PlainText,
            ),
            (&["application/openmetrics-text;version=0.0.1"], Format::PlainText),
            (&["application/openmetrics-text;q=0"], Format::PlainText),
            (&["application/openmetrics-text;q=x"], Format::PlainText),
        ] {
            assert_eq!(Format::accepted(accept.iter().copied()), expected, "{accept:?}");
        }
    }

    #[test]
    fn a_family_is_called_what_its_samples_are_called() {
        let open = "# HELP a_calls Calls of \\\"x\\\".\n# TYPE a_calls counter\na_calls_total{of=\"x\"} 3\n\
                    # HELP a_build Version.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n\
                    # HELP a_age_seconds Age.\n# TYPE a_age_seconds gauge\n# UNIT a_age_seconds seconds\na_age_seconds 2\n\
                    # HELP a_x What.\n# TYPE a_x unknown\na_x 1\n# EOF\n";
        let plain = "# HELP a_calls_total Calls of \"x\".\n# TYPE a_calls_total counter\na_calls_total{of=\"x\"} 3\n\
                     # HELP a_build_info Version.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n\
                     # HELP a_age_seconds Age.\n# TYPE a_age_seconds gauge\na_age_seconds 2\n\
                     # HELP a_x What.\n# TYPE a_x untyped\na_x 1\n";
        assert_eq!(plain_text(open), plain);
    }
}
